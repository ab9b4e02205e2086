// Not run by us: no Swift compiler and no Apple hardware has seen it. The same steps as in preprocess.hpp, which was.
//
// From a photograph to the pixels that the model takes, by the steps of preprocessing.json. Allowed is 1 of 255 levels from what
// timm makes with Pillow, and nothing is measured here. SPDX-License-Identifier: Apache-2.0

import CoreGraphics

private let keptHeight = {{height}}, keptWidth = {{width}}, numChannels = {{channels}}
private let coveredHeight = {{covered_height}}, coveredWidth = {{covered_width}}  // by the resized image
private let interpolation = "{{interpolation}}"
private let bits = 22  // Pillow's weights are integers

/// The pixels that `best` takes, of an upright photograph: a CGImage has none of its file's EXIF orientation applied.
func fitted(_ photograph: CGImage) -> [UInt8]? {
    let width = photograph.width, height = photograph.height
    var rgbx = [UInt8](repeating: 0, count: width * height * 4)
    let drawn = rgbx.withUnsafeMutableBytes { bytes -> Bool in
        // The photograph's own colour space: its numbers are taken as they are.
        guard let space = photograph.colorSpace?.model == .rgb ? photograph.colorSpace : CGColorSpace(name: CGColorSpace.sRGB),
              let context = CGContext(
                data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
                space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { return false }
        context.draw(photograph, in: CGRect(x: 0, y: 0, width: width, height: height))
        return true
    }
    return drawn ? fitted(rgbx: rgbx, width: width, height: height) : nil
}

/// *keptHeight* rows of *keptWidth* pixels of *numChannels* bytes, of four bytes a pixel, row by row; the fourth is ignored.
func fitted(rgbx: [UInt8], width: Int, height: Int) -> [UInt8] {
    var image = Plane(width: width, height: height, values: [])
    for at in stride(from: 0, to: rgbx.count, by: 4) {
        let red = Int(rgbx[at]), green = Int(rgbx[at + 1]), blue = Int(rgbx[at + 2])
        if numChannels == 1 {
            image.values.append((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)
        } else {
            image.values.append(contentsOf: [red, green, blue])
        }
    }
    let (newHeight, newWidth) = resized(height: height, width: width)
    let across = taps(from: width, to: newWidth, keeping: keptWidth)
    let down = taps(from: height, to: newHeight, keeping: keptHeight)
    // Each pass rounds, so that their order shows: Pillow 13 starts with the height of tall images.
    let out = height > 2 * width && newHeight < height
        ? image.resampled(down, across: false).resampled(across, across: true)
        : image.resampled(across, across: true).resampled(down, across: false)
    return out.values.map { UInt8($0) }
}

/// Height and width that an image is resized to before the crop.
private func resized(height: Int, width: Int) -> (Int, Int) {
    if keptHeight == keptWidth {
        let shorter = min(width, height)
        return (coveredHeight * height / shorter, coveredHeight * width / shorter)
    }
    let ratio = min(Double(height) / Double(coveredHeight), Double(width) / Double(coveredWidth))
    let sides = [height, width].map { Int((Double($0) / ratio).rounded(.toNearestOrEven)) }
    return (sides[0], sides[1])
}

/// What one pixel is made of: the first of the old ones, and the weights from there on.
private struct Taps {
    let first: Int
    let weights: [Int]
}

private func kernel(_ x: Double) -> Double {
    if interpolation == "bilinear" { return max(1 - x, 0) }
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0
}

/// Of each of the *count* pixels in the middle, where *old* ones become *new*.
private func taps(from old: Int, to new: Int, keeping count: Int) -> [Taps] {
    let extra = new - count, start = extra / 2 + (extra & (extra / 2) & 1)  // half, rounded to even
    let scale = Double(old) / Double(new), stretch = max(scale, 1)
    let reach = (interpolation == "bilinear" ? 1 : 2) * stretch
    return (start..<(start + count)).map { i in
        let centre = (Double(i) + 0.5) * scale
        if interpolation == "nearest" { return Taps(first: Int(centre), weights: [1 << bits]) }
        let first = max(Int(centre - reach + 0.5), 0), behind = min(Int(centre + reach + 0.5), old)
        let shares = (first..<behind).map { kernel(abs((Double($0) - centre + 0.5) * (1 / stretch))) }
        let sum = shares.reduce(0, +)
        return Taps(first: first, weights: shares.map { Int($0 / sum * Double(1 << bits) + ($0 < 0 ? -0.5 : 0.5)) })
    }
}

private struct Plane {
    let width: Int, height: Int
    var values: [Int]

    func resampled(_ taps: [Taps], across: Bool) -> Plane {
        var out = Plane(width: across ? taps.count : width, height: across ? height : taps.count, values: [])
        let step = across ? numChannels : width * numChannels
        for y in 0..<out.height {
            for x in 0..<out.width {
                let tap = taps[across ? x : y]
                let pixel = across ? y * width + tap.first : tap.first * width + x
                for channel in 0..<numChannels {
                    var sum = 1 << (bits - 1)
                    for (t, weight) in tap.weights.enumerated() {
                        sum += values[pixel * numChannels + channel + t * step] * weight
                    }
                    out.values.append(min(max(sum >> bits, 0), 255))
                }
            }
        }
        return out
    }
}
