// Not run by us: it was compiled by Kotlin 2.4 against LiteRT's own Java classes, and has run on no phone.
//
// Runs this bundle's TFLite artifacts with LiteRT's Interpreter. In build.gradle.kts:
//     implementation("com.google.ai.edge.litert:litert:VERSION")    and    androidResources { noCompress += "tflite" }
// Copy what you ship out of the bundle, e.g. to filesDir; golden/pixels.bin is for the check alone.
// SPDX-License-Identifier: Apache-2.0

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
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

/** An artifact that is loaded, at one head count. Keep it, and close it at the end. */
class HydraViT(bundle: File, private val artifact: Artifact, numThreads: Int = 2) : AutoCloseable {
    private val interpreter =
        Interpreter(File(bundle, artifact.path), Interpreter.Options().setNumThreads(numThreads))

    /** The outputs for one image of HEIGHT x WIDTH pixels, CHANNELS bytes each, row by row, as `fitted` gives (Preprocess.kt). */
    fun run(pixels: ByteArray): FloatArray {
        require(pixels.size == HEIGHT * WIDTH * CHANNELS) { "not an image of $HEIGHT x $WIDTH x $CHANNELS" }
        val width = if (artifact.takesPixels) 1 else Float.SIZE_BYTES
        val images = ByteBuffer.allocateDirect(artifact.batch * pixels.size * width).order(ByteOrder.nativeOrder())
        repeat(artifact.batch) {
            if (artifact.takesPixels) images.put(pixels)
            else pixels.forEachIndexed { at, pixel ->
                val channel = at % CHANNELS
                images.putFloat((((pixel.toInt() and 0xff) / 255.0 - mean[channel]) / std[channel]).toFloat())
            }
        }
        images.rewind()
        val size = artifact.batch * artifact.numOutputs * Float.SIZE_BYTES
        val outputs = ByteBuffer.allocateDirect(size).order(ByteOrder.nativeOrder())
        interpreter.runSignature(
            mapOf<String, Any>("image" to images),
            mapOf<String, Any>({{output}} to outputs),
            artifact.signature,
        )
        outputs.rewind()
        return FloatArray(artifact.numOutputs) { outputs.getFloat() }
    }

    override fun close() = interpreter.close()
}

/** Whether every artifact, or those of [heads], gives the golden image the output that PyTorch gives it. */
fun check(bundle: File, heads: Int? = null): Boolean {
    val pixels = File(bundle, "{{pixels}}").readBytes()
    return artifacts.filter { heads == null || it.heads == heads }.map { artifact ->
        val outputs = HydraViT(bundle, artifact).use { it.run(pixels) }
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
