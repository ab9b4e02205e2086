// Compiled by Kotlin 2.4 and run on a JVM, on no phone: from a photograph to the pixels that the model takes, by the steps of
// preprocessing.json. Allowed is 1 of 255 levels from what timm makes with Pillow; measured with bilinear and bicubic were 0.
// SPDX-License-Identifier: Apache-2.0

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

private const val KEPT_HEIGHT = {{height}}
private const val KEPT_WIDTH = {{width}}
private const val NUM_CHANNELS = {{channels}}
private const val COVERED_HEIGHT = {{covered_height}}L // by the resized image
private const val COVERED_WIDTH = {{covered_width}}L
private const val INTERPOLATION = "{{interpolation}}"
private const val BITS = 22 // Pillow's weights are integers

/**
 * The pixels that [HydraViT.run] takes, of an upright photograph, 0xAARRGGBB row by row:
 *
 *     val argb = IntArray(bitmap.width * bitmap.height)
 *     bitmap.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
 *     val pixels = fitted(argb, bitmap.width, bitmap.height)
 *
 * BitmapFactory does not turn a photograph as its EXIF orientation says; ImageDecoder does. Alpha is ignored.
 */
fun fitted(argb: IntArray, width: Int, height: Int): ByteArray {
    val (newHeight, newWidth) = resized(height, width)
    val across = taps(width, newWidth, KEPT_WIDTH)
    val down = taps(height, newHeight, KEPT_HEIGHT)
    val values = IntArray(width * height * NUM_CHANNELS) { channel(argb[it / NUM_CHANNELS], it % NUM_CHANNELS) }
    val image = Plane(width, height, values)
    // Each pass rounds, so that their order shows: Pillow 13 starts with the height of tall images.
    val out = if (height > 2 * width && newHeight < height) image.down(down).across(across) else image.across(across).down(down)
    return ByteArray(out.values.size) { out.values[it].toByte() }
}

/** Height and width that an image is resized to before the crop. */
private fun resized(height: Int, width: Int): List<Int> {
    if (KEPT_HEIGHT == KEPT_WIDTH) return listOf(height, width).map { (COVERED_HEIGHT * it / min(width, height)).toInt() }
    val ratio = min(height.toDouble() / COVERED_HEIGHT, width.toDouble() / COVERED_WIDTH)
    return listOf(height, width).map { round(it / ratio).toInt() } // halves to even
}

private fun channel(argb: Int, number: Int): Int {
    val (red, green, blue) = listOf(argb shr 16 and 0xff, argb shr 8 and 0xff, argb and 0xff)
    if (NUM_CHANNELS == 1) return (19595 * red + 38470 * green + 7471 * blue + 32768) shr 16
    return if (number == 0) red else if (number == 1) green else blue
}

/** What one pixel is made of: the first of the old ones, and the weights from there on. */
private class Taps(val first: Int, val weights: IntArray)

private fun kernel(x: Double): Double = when {
    INTERPOLATION == "bilinear" -> max(1 - x, 0.0)
    x < 1 -> (1.5 * x - 2.5) * x * x + 1
    x < 2 -> (((x - 5) * x + 8) * x - 4) * -0.5
    else -> 0.0
}

/** Of each of the pixels in the middle, where [old] ones become [size]. */
private fun taps(old: Int, size: Int, count: Int): List<Taps> {
    val extra = size - count
    val start = extra / 2 + (extra and (extra / 2) and 1) // half, rounded to even
    val scale = old.toDouble() / size
    val stretch = max(scale, 1.0)
    val reach = (if (INTERPOLATION == "bilinear") 1 else 2) * stretch
    return List(count) { i ->
        val centre = (start + i + 0.5) * scale
        if (INTERPOLATION == "nearest") return@List Taps(centre.toInt(), intArrayOf(1 shl BITS))
        val first = max((centre - reach + 0.5).toInt(), 0)
        val behind = min((centre + reach + 0.5).toInt(), old)
        val shares = DoubleArray(behind - first) { kernel(abs((first + it - centre + 0.5) * (1 / stretch))) }
        val sum = shares.sum()
        Taps(first, IntArray(shares.size) { (shares[it] / sum * (1 shl BITS) + if (shares[it] < 0) -0.5 else 0.5).toInt() })
    }
}

private class Plane(val width: Int, val height: Int, val values: IntArray) {
    fun across(taps: List<Taps>) =
        resampled(taps.size, height, NUM_CHANNELS) { x, y -> taps[x] to y * width + taps[x].first }

    fun down(taps: List<Taps>) =
        resampled(width, taps.size, width * NUM_CHANNELS) { x, y -> taps[y] to taps[y].first * width + x }

    private fun resampled(newWidth: Int, newHeight: Int, step: Int, of: (Int, Int) -> Pair<Taps, Int>): Plane {
        val out = IntArray(newWidth * newHeight * NUM_CHANNELS)
        for (y in 0 until newHeight) for (x in 0 until newWidth) {
            val (tap, pixel) = of(x, y)
            for (channel in 0 until NUM_CHANNELS) {
                var sum = 1 shl (BITS - 1)
                for (t in tap.weights.indices) sum += values[pixel * NUM_CHANNELS + channel + t * step] * tap.weights[t]
                out[(y * newWidth + x) * NUM_CHANNELS + channel] = (sum shr BITS).coerceIn(0, 255)
            }
        }
        return Plane(newWidth, newHeight, out)
    }
}
