// Not run by us: no Swift compiler has seen it. Line by line the rules of budget.hpp, which tests hold to recorded traces.
//
// Chooses the head count of each call: by a deadline, by how sure the model is, or by both; run.swift shows how.
// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The index of the first largest logit, and its probability: the softmax of logits / temperature.
func surest<Logit: BinaryFloatingPoint>(_ logits: [Logit], temperature: Double = 1) -> (index: Int, probability: Double) {
    precondition(!logits.isEmpty, "there are no logits")
    let scaled = logits.map { Double($0) / temperature }
    var best = 0
    for at in scaled.indices where scaled[at] > scaled[best] { best = at }
    return (best, 1 / scaled.reduce(0) { $0 + exp($1 - scaled[best]) })
}

/// Head counts in the order in which they run: an answer is accepted if its probability reaches its threshold, and the last
/// one always. A calibrated bundle's manifest.json has thresholds and temperatures.
struct Cascade {
    let heads: [Int]
    let thresholds: [Double]

    init(heads: [Int], thresholds: [Double]) {
        let ascending = zip(heads, heads.dropFirst()).allSatisfy { $0 < $1 }
        precondition(
            ascending && !heads.isEmpty && thresholds.count == heads.count - 1,
            "a cascade has ascending head counts, and a threshold for each but the last")
        self.heads = heads
        self.thresholds = thresholds
    }

    func accepts(_ heads: Int, probability: Double) -> Bool {
        guard let at = self.heads.firstIndex(of: heads) else { preconditionFailure("the cascade does not ask \(heads)") }
        return at == thresholds.count || probability >= thresholds[at]
    }
}

/// Chooses head counts so that calls take at most *ms* at *quantile* of them (0.5 to below 1). Not for several threads at once.
///
/// The machine's slowness is how much longer recent calls took than *references*: by head count, the milliseconds of a call when
/// nothing else runs. A head count that no longer fits is replaced at once by the largest that fits; a larger one is tried after
/// *calmCalls* calm calls, with room to spare, and twice as late after each failed try.
struct Budget {
    private static let window = 32, recent = 6, calmCalls = 12, longestCalm = 192
    private static let room = 0.9

    private let references: [Int: Double]
    private let ms: Double, share: Double
    private let all: [Int]  // head counts, ascending
    private var at = 0
    private var slowness: [Double] = []  // of each run: its time over the reference
    private var others: [Double] = []  // of each call: what it took beside its runs
    private var calm = 0, wait = Budget.calmCalls
    private var climbed = false

    init(references: [Int: Double], ms: Double, quantile: Double = 0.95) {
        let possible = references.values.allSatisfy { $0 > 0 && $0.isFinite }
        precondition(possible && !references.isEmpty, "each head count has a reference, a time above 0")
        precondition(ms > 0 && ms.isFinite, "a budget is milliseconds above 0")
        precondition(quantile >= 0.5 && quantile < 1, "a quantile is from 0.5 to below 1")
        self.references = references
        self.ms = ms
        share = quantile
        all = references.keys.sorted()
        at = all.lastIndex { references[$0]! <= Budget.room * ms } ?? 0
    }

    /// The head count of the next call.
    var heads: Int { all[at] }

    /// The head counts to run, in this order: those of *cascade* if all of them fit together, else one.
    func plan(_ cascade: [Int] = []) -> [Int] {
        let fits = !cascade.isEmpty && cascade.reduce(0) { $0 + time($1) } * slow(share) <= left
        return fits ? cascade : [heads]
    }

    /// Records one call: its runs, and the milliseconds of the rest of the call.
    mutating func saw(_ runs: [(heads: Int, ms: Double)], otherMs: Double = 0) {
        slowness = Array((slowness + runs.map { $0.ms / time($0.heads) }).suffix(Budget.window))
        others = Array((others + [otherMs]).suffix(Budget.window))
        let left = self.left, slow = self.slow(2 * share - 1)
        var lower = at
        while lower > 0 && time(all[lower]) * slow > left { lower -= 1 }
        if lower < at {
            if climbed { wait = min(2 * wait, Budget.longestCalm) }
            (at, calm, climbed) = (lower, 0, false)
            return
        }
        calm += 1
        if calm < wait { return }
        if climbed { (wait, climbed) = (Budget.calmCalls, false) }
        let above = at + 1
        if above < all.count && time(all[above]) * self.slow(share) <= Budget.room * left {
            (at, calm, climbed) = (above, 0, true)
        }
    }

    private func time(_ heads: Int) -> Double {
        guard let time = references[heads] else { preconditionFailure("there is no reference for \(heads)") }
        return time
    }

    /// Milliseconds for the runs of a call.
    private var left: Double { ms - (others.isEmpty ? 0 : Budget.quantile(others, share)) }

    private func slow(_ share: Double) -> Double {
        if slowness.isEmpty { return 1 }
        let recent = Array(slowness.suffix(Budget.recent))
        return max(Budget.quantile(recent, 0.8), Budget.quantile(slowness, share))
    }

    /// The smallest value that *share* of them do not exceed.
    private static func quantile(_ values: [Double], _ share: Double) -> Double {
        values.sorted()[max(Int((share * Double(values.count)).rounded(.up)) - 1, 0)]
    }
}
