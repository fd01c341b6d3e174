package org.edgegemma

import java.nio.ByteBuffer

/**
 * A picture.
 *
 * @property rgb a direct buffer with the rows from the top, three bytes a pixel (sRGB); the library reads from its
 *   beginning, whatever its position is, and only while a message is added
 * @property width pixels
 * @property height pixels
 * @property stride bytes from a row to the next; 0: three times the width
 * @property maxTokens soft tokens that the picture may become: 70, 140, 280, 560 or 1120; 0: 280
 */
public class Image(
    public val rgb: ByteBuffer,
    public val width: Int,
    public val height: Int,
    public val stride: Int = 0,
    public val maxTokens: Int = 0,
) {
    init {
        require(rgb.isDirect) { "The pixels must be in a direct buffer." }
    }

    public companion object {
        /**
         * A copy of `pixels[width * height]` as Android's `Bitmap.getPixels` gives them: 0xAARRGGBB. Transparency is ignored.
         *
         * @param maxTokens as in the constructor
         */
        @JvmStatic
        @JvmOverloads
        public fun fromPixels(pixels: IntArray, width: Int, height: Int, maxTokens: Int = 0): Image {
            require(width > 0 && height > 0 && pixels.size.toLong() == width.toLong() * height) {
                "There are ${pixels.size} pixels, which are not $width x $height."
            }
            val bytes = ByteArray(3 * width)
            val rgb = ByteBuffer.allocateDirect(Math.multiplyExact(bytes.size, height))
            for (y in 0 until height) {
                for (x in 0 until width) {
                    val pixel = pixels[y * width + x]
                    bytes[3 * x] = (pixel shr 16).toByte()
                    bytes[3 * x + 1] = (pixel shr 8).toByte()
                    bytes[3 * x + 2] = pixel.toByte()
                }
                rgb.put(bytes)
            }
            return Image(rgb, width, height, 0, maxTokens)
        }
    }
}
