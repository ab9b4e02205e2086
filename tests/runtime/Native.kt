// Follows the orders on its input, and writes what Budget.kt answers.

private val words = System.`in`.bufferedReader().readText().split(Regex("\\s+")).iterator()

private fun int() = words.next().toInt()

private fun double() = words.next().toDouble()

private fun ints() = List(int()) { int() }

private fun doubles() = List(int()) { double() }

private fun <T> unlessRefused(make: () -> T): T? =
    try {
        make()
    } catch (_: IllegalArgumentException) {
        println("refused")
        null
    }

fun main() {
    var budget: Budget? = null
    var cascade: Cascade? = null
    var asked = emptyList<Int>()
    while (words.hasNext()) {
        when (words.next()) {
            "budget" -> {
                val (ms, quantile) = List(2) { double() }
                val references = ints().zip(doubles()).toMap()
                asked = ints()
                budget = unlessRefused { Budget(references, ms, quantile) }
            }
            "plan" -> println(budget!!.plan(asked).joinToString(" "))
            "saw" -> {
                val other = double()
                budget!!.saw(ints().zip(doubles()).map { (heads, ms) -> Budget.Run(heads, ms) }, other)
            }
            "cascade" -> {
                val heads = ints()
                val thresholds = doubles()
                cascade = unlessRefused { Cascade(heads, thresholds) }
            }
            "answer" -> {
                val heads = int()
                val temperature = double()
                val best = surest(doubles().toDoubleArray(), temperature)
                val accepted = cascade!!.accepts(heads, best.probability)
                println("${best.index} ${best.probability} ${if (accepted) 1 else 0}")
            }
        }
    }
}
