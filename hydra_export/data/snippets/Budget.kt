// Compiled by Kotlin 2.4 and run on a JVM, on no phone. Chooses the head count of each call: by a deadline, by how sure the model
// is, or by both; Run.kt shows how. The rules of hydra_runtime.py, with the standard library alone and held to the same traces.
// SPDX-License-Identifier: Apache-2.0

import kotlin.math.ceil
import kotlin.math.exp
import kotlin.math.max
import kotlin.math.min

class Surest(val index: Int, val probability: Double)

/** The index of the first largest of [logits], and its probability: the softmax of logits / temperature. */
fun surest(logits: DoubleArray, temperature: Double = 1.0): Surest {
    val scaled = DoubleArray(logits.size) { logits[it] / temperature }
    var best = 0
    for (at in scaled.indices) if (scaled[at] > scaled[best]) best = at // which maxBy would not do: of 0.0 and -0.0 it takes 0.0
    return Surest(best, 1 / scaled.sumOf { exp(it - scaled[best]) })
}

fun surest(logits: FloatArray, temperature: Double = 1.0) =
    surest(DoubleArray(logits.size) { logits[it].toDouble() }, temperature)

/**
 * Head counts in the order in which they run: an answer is accepted if its probability reaches its threshold, and the last
 * one always. A calibrated bundle's manifest.json has thresholds and temperatures.
 *
 * @param heads ascending
 * @param thresholds of all but the last
 */
class Cascade(val heads: List<Int>, val thresholds: List<Double>) {
    init {
        require(heads.isNotEmpty() && thresholds.size == heads.size - 1 && heads.zipWithNext().all { (a, b) -> a < b }) {
            "a cascade has ascending head counts, and a threshold for each but the last"
        }
    }

    fun accepts(heads: Int, probability: Double): Boolean {
        val at = this.heads.indexOf(heads)
        require(at >= 0) { "the cascade does not ask $heads" }
        return at == thresholds.size || probability >= thresholds[at]
    }
}

/**
 * Chooses head counts so that calls take at most [ms] at [quantile] of them. Not for several threads at once.
 *
 * The machine's slowness is how much longer recent calls took than [references], whatever their head count. A head count that no
 * longer fits is replaced at once by the largest that fits; a larger one is tried after CALM calm calls, with room to spare, and
 * twice as late after each failed try.
 *
 * @param references by head count, the milliseconds of a call when nothing else runs
 * @param quantile from 0.5 to below 1
 */
class Budget(private val references: Map<Int, Double>, private val ms: Double, private val quantile: Double = 0.95) {
    class Run(val heads: Int, val ms: Double)

    private val all = references.keys.sorted()
    private var at = max(all.indexOfLast { time(it) <= ROOM * ms }, 0)
    private val slowness = ArrayDeque<Double>() // of each run: its time over the reference
    private val others = ArrayDeque<Double>() // of each call: what it took beside its runs
    private var calm = 0
    private var wait = CALM
    private var climbed = false

    init {
        require(all.isNotEmpty() && all.all { time(it) > 0 && time(it).isFinite() }) { "a reference is a time above 0" }
        require(ms > 0 && ms.isFinite()) { "a budget is milliseconds above 0" }
        require(quantile >= 0.5 && quantile < 1) { "a quantile is from 0.5 to below 1" }
    }

    /** The head count of the next call. */
    val heads get() = all[at]

    /** The head counts to run, in this order: those of [cascade] if all of them fit together, else one. */
    fun plan(cascade: List<Int> = emptyList()): List<Int> {
        val fits = cascade.isNotEmpty() && cascade.sumOf { time(it) } * slow(quantile) <= left()
        return if (fits) cascade else listOf(heads)
    }

    /** Records one call: its runs, and the milliseconds of the rest of the call. */
    fun saw(runs: List<Run>, otherMs: Double = 0.0) {
        runs.forEach { slowness.keep(it.ms / time(it.heads)) }
        others.keep(otherMs)
        val left = left()
        val slow = slow(2 * quantile - 1)
        var lower = at
        while (lower > 0 && time(all[lower]) * slow > left) lower--
        if (lower < at) {
            if (climbed) wait = min(2 * wait, LONGEST_CALM)
            return move(lower, false)
        }
        if (++calm < wait) return
        if (climbed) wait = CALM
        climbed = false
        val above = all.getOrNull(at + 1) ?: return
        if (time(above) * slow(quantile) <= ROOM * left) move(at + 1, true)
    }

    private fun ArrayDeque<Double>.keep(value: Double) {
        addLast(value)
        if (size > WINDOW) removeFirst()
    }

    private fun move(to: Int, climbing: Boolean) {
        at = to
        calm = 0
        climbed = climbing
    }

    private fun time(heads: Int) = references.getValue(heads)

    /** Milliseconds for the runs of a call. */
    private fun left() = ms - if (others.isEmpty()) 0.0 else quantile(others, quantile)

    private fun slow(share: Double) =
        if (slowness.isEmpty()) 1.0 else max(quantile(slowness.takeLast(RECENT), 0.8), quantile(slowness, share))

    /** The smallest value that [share] of them do not exceed. */
    private fun quantile(values: List<Double>, share: Double) = values.sorted()[max(ceil(share * values.size).toInt() - 1, 0)]

    private companion object {
        const val WINDOW = 32
        const val RECENT = 6
        const val CALM = 12
        const val LONGEST_CALM = 192
        const val ROOM = 0.9
    }
}
