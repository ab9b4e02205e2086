// Not run by us: no Swift compiler and no Apple hardware has seen it. Written from Apple's documentation of Core ML.
//
// Runs this bundle's Core ML packages on the golden image. On a Mac, outside of the bundle:
//
//   swiftc -parse-as-library BUNDLE/snippets/*.swift -o run
//   ./run BUNDLE        every package at every head count          ./run BUNDLE 6        at one
//   ./run BUNDLE --budget 33        a hundred calls, at the head counts that keep to 33 ms each
//
// In an app, Xcode compiles the package that you add; Run is not needed there.
// SPDX-License-Identifier: Apache-2.0

import CoreML
import CoreVideo
import Foundation

struct Artifact {
    let path: String
    let heads: Int
    let function: String?  // of a package that holds every head count (iOS 18, macOS 15), the function is the choice
    let pixels: Bool  // takes an image; otherwise normalised numbers
    let batch: Int
    let best: Int  // position of the largest output for the golden image, and the output, as PyTorch has them
    let value: Float
}

let artifacts = [
{{artifacts}}
]
let height = {{height}}, width = {{width}}, channels = {{channels}}
let tokens = {{tokens}}  // whether the outputs are patch tokens
let mean: [Float] = [{{mean}}], std: [Float] = [{{std}}]

struct Problem: Error { let message: String }

func load(_ artifact: Artifact, in bundle: URL) async throws -> MLModel {
    let configuration = MLModelConfiguration()
    if let function = artifact.function {
        guard #available(iOS 18, macOS 15, *) else { throw Problem(message: "\(artifact.path) needs iOS 18 or macOS 15") }
        configuration.functionName = function
    }
    let compiled = try await MLModel.compileModel(at: bundle.appendingPathComponent(artifact.path))
    return try MLModel(contentsOf: compiled, configuration: configuration)
}

/// [batch, channels, height, width] of pixels [height, width, channels].
func normalised(_ pixels: [UInt8], batch: Int) throws -> MLMultiArray {
    let shape = [batch, channels, height, width].map { NSNumber(value: $0) }
    let image = try MLMultiArray(shape: shape, dataType: .float32)
    for at in 0..<(batch * pixels.count) {
        let channel = (at / (height * width)) % channels
        let pixel = Float(pixels[(at % (height * width)) * channels + channel])
        image[at] = NSNumber(value: (pixel / 255 - mean[channel]) / std[channel])
    }
    return image
}

/// What a camera gives in an app: grey, or BGRA.
func pixelBuffer(_ pixels: [UInt8]) throws -> CVPixelBuffer {
    var created: CVPixelBuffer?
    let format = channels == 1 ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
    CVPixelBufferCreate(kCFAllocatorDefault, width, height, format, nil, &created)
    guard let buffer = created else { throw Problem(message: "no pixel buffer") }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let start = CVPixelBufferGetBaseAddress(buffer) else { throw Problem(message: "no pixel buffer") }
    let bytes = start.assumingMemoryBound(to: UInt8.self)
    let row = CVPixelBufferGetBytesPerRow(buffer)
    for y in 0..<height {
        for x in 0..<width {
            let from = (y * width + x) * channels
            if channels == 1 {
                bytes[y * row + x] = pixels[from]
            } else {
                let to = y * row + x * 4
                bytes[to] = pixels[from + 2]
                bytes[to + 1] = pixels[from + 1]
                bytes[to + 2] = pixels[from]
                bytes[to + 3] = 255
            }
        }
    }
    return buffer
}

/// The position of the largest output, and the output; of a classifier, the position of its label, and no output.
/// *pixels* is what `fitted` makes of a photograph (preprocess.swift).
func best(_ model: MLModel, _ artifact: Artifact, _ pixels: [UInt8], _ labels: [String]) throws -> (Int?, Float?) {
    let image = artifact.pixels
        ? MLFeatureValue(pixelBuffer: try pixelBuffer(pixels))
        : MLFeatureValue(multiArray: try normalised(pixels, batch: artifact.batch))
    let prediction = try model.prediction(from: try MLDictionaryFeatureProvider(dictionary: ["image": image]))
    if let name = model.modelDescription.predictedFeatureName {
        return (prediction.featureValue(for: name).flatMap { labels.firstIndex(of: $0.stringValue) }, nil)
    }
    guard let outputs = prediction.featureValue(for: {{output}})?.multiArrayValue else { return (nil, nil) }
    let values = (0..<(outputs.count / artifact.batch)).map { outputs[$0].floatValue }
    return (values.indices.max { values[$0] < values[$1] }, values.max())
}

/// A hundred calls on the first package of each head count. A cascade asks `surest` of the logits between its runs.
func keep(_ ms: Double, in bundle: URL, _ pixels: [UInt8], _ labels: [String]) async throws {
    var loaded: [Int: (artifact: Artifact, model: MLModel)] = [:]
    for artifact in artifacts where loaded[artifact.heads] == nil {
        loaded[artifact.heads] = (artifact, try await load(artifact, in: bundle))
    }
    func timed(_ one: (artifact: Artifact, model: MLModel)) throws -> Double {
        let began = DispatchTime.now().uptimeNanoseconds
        _ = try best(one.model, one.artifact, pixels, labels)
        return Double(DispatchTime.now().uptimeNanoseconds - began) / 1e6
    }
    let references = try loaded.mapValues { one -> Double in
        _ = try timed(one)  // which is slower, the first time
        return try timed(one)
    }
    var budget = Budget(references: references, ms: ms)
    for _ in 0..<100 {
        let heads = budget.heads
        let ms = try timed(loaded[heads]!)
        budget.saw([(heads: heads, ms: ms)])
        print(heads, terminator: " ")
    }
    print()
}

@main
struct Run {
    static func main() async throws {
        let arguments = CommandLine.arguments
        let bundle = URL(fileURLWithPath: arguments.count > 1 ? arguments[1] : ".")
        let chosen = arguments.count > 2 ? Int(arguments[2]) : nil
        let pixels = [UInt8](try Data(contentsOf: bundle.appendingPathComponent("{{pixels}}")))
        let text = try? String(contentsOf: bundle.appendingPathComponent("labels.txt"), encoding: .utf8)
        let labels = (text ?? "").components(separatedBy: "\n")
        if arguments.count > 3, arguments[2] == "--budget", let ms = Double(arguments[3]) {
            return try await keep(ms, in: bundle, pixels, labels)
        }
        var differing = 0
        for artifact in artifacts where chosen == nil || chosen == artifact.heads {
            let model = try await load(artifact, in: bundle)
            let (found, value) = try best(model, artifact, pixels, labels)
            // Of so many outputs as patch tokens have, rounding may order nearly equal ones otherwise.
            let near = tokens && abs((value ?? .nan) - artifact.value) <= 0.05 * abs(artifact.value)
            let same = found == artifact.best || near
            let said = "best \(found ?? -1) (\(value ?? .nan)), expected \(artifact.best) (\(artifact.value))"
            print("\(artifact.path), k = \(artifact.heads): \(said), \(same ? "same" : "DIFFERS")")
            differing += same ? 0 : 1
        }
        exit(differing == 0 ? 0 : 1)
    }
}
