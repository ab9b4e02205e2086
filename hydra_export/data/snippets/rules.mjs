// The rules by which hydra_runtime.mjs chooses head counts, the same in every language: +, -, *, /, comparisons, sorting and
// exp, so that all give one trace. SPDX-License-Identifier: Apache-2.0

const WINDOW = 32;
const RECENT = 6;
const CALM = 12;
const LONGEST_CALM = 192;
const ROOM = 0.9;

/**
 * Chooses head counts so that calls take at most *ms* at *quantile* of them.
 *
 * The machine's slowness is how much longer recent calls took than *references*, the milliseconds of a call by head count
 * when nothing else runs. A head count that does not fit the slowness seen is replaced at once by the largest that fits; a
 * larger one is tried after CALM calm calls, with room to spare, and twice as late after each failed try.
 */
export class Budget {
  #heads;
  #slowness = []; // of each run: its time over the reference
  #others = []; // of each call: what it took beside its runs
  #calm = 0;
  #wait = CALM;
  #climbed = false;
  #at;

  constructor(references, ms, quantile = 0.95) {
    const pairs = Object.entries(references).map(([heads, time]) => [Number(heads), time]);
    if (pairs.length === 0 || !pairs.every(([, time]) => time > 0 && time < Infinity)) {
      throw new Error(`References of ${JSON.stringify(references)} ms are invalid. Pass a time above 0 for each head count.`);
    }
    if (!(ms > 0 && ms < Infinity)) throw new Error(`A budget of ${ms} ms is invalid. Pass milliseconds above 0.`);
    if (!(quantile >= 0.5 && quantile < 1)) {
      throw new Error(`The quantile is ${quantile}. Pass a share from 0.5 to below 1, such as 0.95.`);
    }
    Object.assign(this, { references: Object.fromEntries(pairs), ms, quantile });
    this.#heads = pairs.map(([heads]) => heads); // ascending: the order of an object's whole numbers
    this.#at = Math.max(this.#heads.findLastIndex((k) => references[k] <= ROOM * ms), 0);
  }

  /** The head count of the next call. */
  get heads() {
    return this.#heads[this.#at];
  }

  /** The head counts to run, in this order: those of *cascade* if all of them fit together, else one. */
  plan(cascade = []) {
    const slow = this.#slow(this.quantile);
    const together = cascade.reduce((sum, k) => sum + this.references[k], 0);
    return cascade.length > 0 && together * slow <= this.#left() ? [...cascade] : [this.heads];
  }

  /** Records one call: [head count, milliseconds] of each run, and milliseconds of the rest of the call. */
  saw(runs, otherMs = 0) {
    this.#slowness = [...this.#slowness, ...runs.map(([k, ms]) => ms / this.references[k])].slice(-WINDOW);
    this.#others = [...this.#others, otherMs].slice(-WINDOW);
    const left = this.#left();
    const fits = (at, share, room) => this.references[this.#heads[at]] * this.#slow(share) <= room;
    let lower = this.#at;
    while (lower > 0 && !fits(lower, 2 * this.quantile - 1, left)) lower--;
    if (lower < this.#at) {
      if (this.#climbed) this.#wait = Math.min(2 * this.#wait, LONGEST_CALM);
      [this.#at, this.#calm, this.#climbed] = [lower, 0, false];
      return;
    }
    this.#calm++;
    if (this.#calm < this.#wait) return;
    if (this.#climbed) [this.#wait, this.#climbed] = [CALM, false];
    const above = this.#at + 1;
    if (above < this.#heads.length && fits(above, this.quantile, ROOM * left)) {
      [this.#at, this.#calm, this.#climbed] = [above, 0, true];
    }
  }

  /** Milliseconds for the runs of a call. */
  #left() {
    return this.ms - (this.#others.length > 0 ? quantile(this.#others, this.quantile) : 0);
  }

  #slow(share) {
    if (this.#slowness.length === 0) return 1;
    return Math.max(quantile(this.#slowness.slice(-RECENT), 0.8), quantile(this.#slowness, share));
  }
}

/** The smallest of *values* that *share* of them do not exceed. */
export function quantile(values, share) {
  return [...values].sort((a, b) => a - b)[Math.max(Math.ceil(share * values.length) - 1, 0)];
}

/** The index of the first largest of *logits*, and its probability: the softmax of logits / temperature. */
export function surest(logits, temperature = 1) {
  const scaled = Float64Array.from(logits, (logit) => logit / temperature);
  const index = scaled.reduce((most, value, at) => (value > scaled[most] ? at : most), 0);
  return { index, probability: 1 / scaled.reduce((sum, value) => sum + Math.exp(value - scaled[index]), 0) };
}

/** Head counts in the order in which they run; an answer is accepted if its probability reaches its threshold. */
export class Cascade {
  /** *heads* ascend; *thresholds* are for all but the last, whose answer is always accepted. */
  constructor(heads, thresholds, asGoodAs = 0) {
    const ascending = heads.every((k, at) => at === 0 || k > heads[at - 1]);
    if (heads.length === 0 || thresholds.length !== heads.length - 1 || !ascending) {
      throw new Error(
        `No cascade has heads [${heads}] and thresholds [${thresholds}]. Pass ascending head counts, and a threshold for ` +
          "each but the last.",
      );
    }
    Object.assign(this, { heads: [...heads], thresholds: [...thresholds], asGoodAs });
  }

  /** Whether the answer of *heads* is accepted. */
  accepts(heads, probability) {
    const at = this.heads.indexOf(heads);
    return at === this.thresholds.length || probability >= this.thresholds[at];
  }
}
