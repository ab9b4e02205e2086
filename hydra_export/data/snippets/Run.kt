// Run on no phone: Kotlin 2.4 compiled it against LiteRT's own Kotlin and Java. By CompiledModel it ran small models on a JVM, on
// x86-64 Linux; what takes the Interpreter was compiled alone.
//
// Runs this bundle's TFLite artifacts with LiteRT's CompiledModel, or with its older Interpreter. In build.gradle.kts:
//     implementation("com.google.ai.edge.litert:litert:VERSION")    and    androidResources { noCompress += "tflite" }
// Copy what you ship out of the bundle, e.g. to filesDir; golden/pixels.bin is for the check alone.
// SPDX-License-Identifier: Apache-2.0

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import java.io.File
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import kotlin.math.abs
import org.tensorflow.lite.Interpreter

/** [best] and [value]: position of the largest output for the golden image, and the output, as PyTorch has them. */
class Artifact(
    val path: String,
    val heads: Int,
    val signature: String, // of one that holds every head count, the signature is the choice
    val takesPixels: Boolean, // uint8 in 0-255; otherwise normalised
    val batch: Int,
    val numOutputs: Int,
    val best: Int,
    val value: Double,
)

val artifacts = listOf(
{{artifacts}}
)
const val HEIGHT = {{height}}
const val WIDTH = {{width}}
const val CHANNELS = {{channels}}
const val TOKENS = {{tokens}} // whether the outputs are patch tokens
val mean = doubleArrayOf({{mean}})
val std = doubleArrayOf({{std}})

/** A file of artifacts, loaded, which runs at each head count that it holds. Keep it, and close it at the end. */
class HydraViT(bundle: File, path: String, numThreads: Int = 2) : AutoCloseable {
    private val options = CompiledModel.Options(Accelerator.CPU).apply { cpuOptions = CompiledModel.CpuOptions(numThreads) }
    private val model = CompiledModel.create(File(bundle, path).path, options)
    private val held = artifacts.filter { it.path == path }.associateBy { it.heads }
    private val inputs = held.mapValues { model.createInputBuffers(it.value.signature) }
    private val outputs = held.mapValues { model.createOutputBuffers(it.value.signature) }

    /** The outputs for one image of HEIGHT x WIDTH pixels, CHANNELS bytes each, row by row, as `fitted` gives (Preprocess.kt). */
    fun run(pixels: ByteArray, heads: Int): FloatArray {
        val artifact = held.getValue(heads)
        val (given, made) = inputs.getValue(heads) to outputs.getValue(heads)
        if (artifact.takesPixels) given[0].writeInt8(artifact.bytes(pixels)) // uint8: the same bytes
        else given[0].writeFloat(artifact.floats(pixels))
        model.run(given, made, artifact.signature)
        return made[0].readFloat().copyOf(artifact.numOutputs)
    }

    override fun close() {
        (inputs.values + outputs.values).flatten().forEach { it.close() }
        model.close()
    }
}

/** The same by an Interpreter of the artifact's file, which LiteRT keeps but adds nothing to any more. */
fun Interpreter.outputs(pixels: ByteArray, artifact: Artifact): FloatArray {
    val image = if (artifact.takesPixels) ByteBuffer.wrap(artifact.bytes(pixels)) else FloatBuffer.wrap(artifact.floats(pixels))
    val outputs = FloatBuffer.allocate(artifact.batch * artifact.numOutputs)
    runSignature(mapOf<String, Any>("image" to image), mapOf<String, Any>({{output}} to outputs), artifact.signature)
    return outputs.array().copyOf(artifact.numOutputs)
}

private fun Artifact.bytes(pixels: ByteArray): ByteArray {
    require(pixels.size == HEIGHT * WIDTH * CHANNELS) { "not an image of $HEIGHT x $WIDTH x $CHANNELS" }
    return ByteArray(batch * pixels.size) { pixels[it % pixels.size] }
}

private fun Artifact.floats(pixels: ByteArray): FloatArray {
    val all = bytes(pixels)
    return FloatArray(all.size) { (((all[it].toInt() and 0xff) / 255.0 - mean[it % CHANNELS]) / std[it % CHANNELS]).toFloat() }
}

/** Of one call: the class, its probability, and the head count that answered. */
class Answer(val index: Int, val probability: Double, val heads: Int)

/**
 * One call that keeps to [budget], as a [cascade] where all of that fits (Budget.kt). [models] are by head count, often one for
 * all; budget, cascade and temperatures are kept from call to call:
 *
 *     val budget = Budget(mapOf(3 to 5.2, 6 to 15.1, 12 to 51.7), ms = 33.0)    // milliseconds of a run, measured on this phone
 *
 * @param began System.nanoTime() when the call began, so that the milliseconds of getting [pixels] ready count
 */
fun answer(
    models: Map<Int, HydraViT>,
    pixels: ByteArray,
    budget: Budget,
    cascade: Cascade? = null,
    temperatures: Map<Int, Double> = emptyMap(),
    began: Long = System.nanoTime(),
): Answer {
    val plan = budget.plan(cascade?.heads.orEmpty())
    val runs = mutableListOf<Budget.Run>()
    var answer: Answer
    do {
        val heads = plan[runs.size]
        val runBegan = System.nanoTime()
        val best = surest(models.getValue(heads).run(pixels, heads), temperatures[heads] ?: 1.0)
        runs += Budget.Run(heads, (System.nanoTime() - runBegan) / 1e6)
        answer = Answer(best.index, best.probability, heads)
    } while (runs.size < plan.size && cascade?.accepts(heads, best.probability) == false)
    budget.saw(runs, (System.nanoTime() - began) / 1e6 - runs.sumOf { it.ms })
    return answer
}

/** Whether every artifact, or those of [heads], gives the golden image the output that PyTorch gives it. */
fun check(bundle: File, heads: Int? = null): Boolean {
    val pixels = File(bundle, "{{pixels}}").readBytes()
    return artifacts.filter { heads == null || it.heads == heads }.map { artifact ->
        val outputs = HydraViT(bundle, artifact.path).use { it.run(pixels, artifact.heads) }
        val best = outputs.indices.maxBy { outputs[it] }
        // Of so many outputs as patch tokens have, rounding may order nearly equal ones otherwise.
        val near = TOKENS && abs(outputs[artifact.best] - artifact.value) <= 0.05 * abs(artifact.value)
        val same = best == artifact.best || near
        val said = "best $best (${outputs[best]}), expected ${artifact.best} (${artifact.value})"
        val verdict = if (same) "same" else "DIFFERS"
        println("${artifact.path}, k = ${artifact.heads}: $said, $verdict")
        same
    }.all { it }
}
