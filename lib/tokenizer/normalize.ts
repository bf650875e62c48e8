/**
 * NFC (UAX #15) over UTF-16 units, with the oracle's tables. Not String.prototype.normalize: its Unicode version
 * changes with Node, which would change ids, and its reordering takes quadratic time on hostile runs of marks.
 */
import * as unicode from './unicode'

// Bound once: compiled code reads an import through its module's object, which is slow in hot loops.
const { classOf, combiningClass, compositions, decompositions, MARK, NFC_MAYBE, pairKey, SURROGATE } = unicode

// Hangul syllables compose by arithmetic (The Unicode Standard, section 3.12).
const S_BASE = 0xac00
const L_BASE = 0x1100
const V_BASE = 0x1161
const T_BASE = 0x11a7
const L_COUNT = 19
const V_COUNT = 21
const T_COUNT = 28
const S_COUNT = L_COUNT * V_COUNT * T_COUNT

const FLAGGED = MARK | NFC_MAYBE | SURROGATE

/** A stretch of text in NFC. */
export interface NfcText {
  units: Uint16Array
  start: number
  end: number
}

/** The code point at `i`; `units` must be well-formed. */
function codePointAt(units: Uint16Array, i: number): number {
  const unit = units[i]!
  return (unit & 0xfc00) === 0xd800 ? ((unit - 0xd800) << 10) + units[i + 1]! - 0xdc00 + 0x10000 : unit
}

const width = (codePoint: number) => (codePoint > 0xffff ? 2 : 1)

/**
 * The index of the first code point in [start, end) from which the text may not be in NFC, or `end`.
 * `start` must be a starter that does not combine backwards, or the start of the text.
 */
export function firstNotNfc(units: Uint16Array, start: number, end: number): number {
  let last = 0
  for (let i = start; i < end; ) {
    let bits = classOf[units[i]!]!
    if ((bits & FLAGGED) === 0) {
      last = 0
      i++
      continue
    }
    const c = codePointAt(units, i)
    bits = classOf[c]!
    if (bits & NFC_MAYBE) return i
    const rank = combiningClass[c]!
    if (rank !== 0 && rank < last) return i
    last = rank
    i += width(c)
  }
  return end
}

/** Whether the text is cut before `c`: nothing before it combines with it or is reordered across it. */
const isBoundary = (c: number) => combiningClass[c] === 0 && (classOf[c]! & NFC_MAYBE) === 0

/** Returns the NFC of `units[start, end)`: the same array when it is in NFC already. */
export function normalize(units: Uint16Array, start: number, end: number): NfcText {
  let dirty = firstNotNfc(units, start, end)
  if (dirty === end) return { units, start, end }
  const out = new UnitBuffer(end - start + 64)
  const segment = new Segment()
  let copied = start
  while (dirty < end) {
    let from = dirty
    // Back to the last boundary: its character may change with what follows.
    while (from > copied) {
      from -= (units[from - 1]! & 0xfc00) === 0xdc00 ? 2 : 1
      if (isBoundary(codePointAt(units, from))) break
    }
    let to = dirty + width(codePointAt(units, dirty))
    while (to < end) {
      const c = codePointAt(units, to)
      if (isBoundary(c)) break
      to += width(c)
    }
    out.copy(units, copied, from)
    segment.compose(units, from, to, out)
    copied = to
    dirty = firstNotNfc(units, to, end)
  }
  out.copy(units, copied, end)
  return { units: out.units, start: 0, end: out.length }
}

/** A stretch of text between two boundaries: decomposed, put in canonical order, composed. */
class Segment {
  private codePoints: Int32Array = new Int32Array(64)
  private ranks: Uint8Array = new Uint8Array(64)
  private count = 0

  compose(units: Uint16Array, start: number, end: number, out: UnitBuffer): void {
    this.count = 0
    for (let i = start; i < end; ) {
      const c = codePointAt(units, i)
      this.decompose(c)
      i += width(c)
    }
    this.order()
    this.recompose()
    for (let i = 0; i < this.count; i++) out.push(this.codePoints[i]!)
    if (this.codePoints.length > 4096) {
      this.codePoints = new Int32Array(64)
      this.ranks = new Uint8Array(64)
    }
  }

  private decompose(c: number): void {
    const s = c - S_BASE
    if (s >= 0 && s < S_COUNT) {
      this.push(L_BASE + Math.floor(s / (V_COUNT * T_COUNT)))
      this.push(V_BASE + Math.floor((s % (V_COUNT * T_COUNT)) / T_COUNT))
      if (s % T_COUNT !== 0) this.push(T_BASE + (s % T_COUNT))
      return
    }
    const parts = decompositions.get(c)
    if (parts) for (const part of parts) this.push(part)
    else this.push(c)
  }

  private push(c: number): void {
    if (this.count === this.codePoints.length) {
      const codePoints = new Int32Array(this.count * 2)
      const ranks = new Uint8Array(this.count * 2)
      codePoints.set(this.codePoints)
      ranks.set(this.ranks)
      this.codePoints = codePoints
      this.ranks = ranks
    }
    this.codePoints[this.count] = c
    this.ranks[this.count++] = combiningClass[c]!
  }

  /** Canonical ordering: a stable sort by combining class of every run of marks. */
  private order(): void {
    for (let i = 0; i < this.count; i++) {
      if (this.ranks[i] === 0) continue
      let end = i + 1
      while (end < this.count && this.ranks[end] !== 0) end++
      if (end - i <= 16) this.insertionSort(i, end)
      else this.countingSort(i, end)
      i = end
    }
  }

  private insertionSort(start: number, end: number): void {
    const { codePoints, ranks } = this
    for (let i = start + 1; i < end; i++) {
      const c = codePoints[i]!
      const rank = ranks[i]!
      let j = i
      for (; j > start && ranks[j - 1]! > rank; j--) {
        codePoints[j] = codePoints[j - 1]!
        ranks[j] = ranks[j - 1]!
      }
      codePoints[j] = c
      ranks[j] = rank
    }
  }

  /** Linear in the length of the run, however long a hostile text makes it. */
  private countingSort(start: number, end: number): void {
    const { codePoints, ranks } = this
    const next = new Int32Array(257)
    for (let i = start; i < end; i++) next[ranks[i]! + 1]!++
    for (let rank = 0; rank < 256; rank++) next[rank + 1]! += next[rank]!
    const run = codePoints.slice(start, end)
    for (let i = 0; i < run.length; i++) {
      const rank = combiningClass[run[i]!]!
      const to = start + next[rank]!++
      codePoints[to] = run[i]!
      ranks[to] = rank
    }
  }

  /** Canonical composition in place: each mark joins the last starter unless one of its own or a higher class stands between. */
  private recompose(): void {
    const { codePoints, ranks } = this
    let starter = -1
    let lastRank = 0
    let kept = 0
    for (let i = 0; i < this.count; i++) {
      const c = codePoints[i]!
      const rank = ranks[i]!
      const adjacent = starter === kept - 1
      if (starter >= 0 && (adjacent || (lastRank !== 0 && lastRank < rank))) {
        const composed = compose(codePoints[starter]!, c)
        if (composed !== 0) {
          codePoints[starter] = composed
          continue
        }
      }
      if (rank === 0) starter = kept
      lastRank = rank
      codePoints[kept] = c
      ranks[kept++] = rank
    }
    this.count = kept
  }
}

/** The primary composite of two code points, or 0. */
function compose(first: number, second: number): number {
  const l = first - L_BASE
  const v = second - V_BASE
  if (l >= 0 && l < L_COUNT && v >= 0 && v < V_COUNT) return S_BASE + (l * V_COUNT + v) * T_COUNT
  const s = first - S_BASE
  const t = second - T_BASE
  if (s >= 0 && s < S_COUNT && s % T_COUNT === 0 && t > 0 && t < T_COUNT) return first + t
  return compositions.get(pairKey(first, second)) ?? 0
}

/** Growing UTF-16 output. */
class UnitBuffer {
  units: Uint16Array
  length = 0

  constructor(capacity: number) {
    this.units = new Uint16Array(capacity)
  }

  push(c: number): void {
    this.reserve(2)
    if (c > 0xffff) {
      this.units[this.length++] = 0xd800 + ((c - 0x10000) >> 10)
      this.units[this.length++] = 0xdc00 + ((c - 0x10000) & 0x3ff)
    } else {
      this.units[this.length++] = c
    }
  }

  copy(from: Uint16Array, start: number, end: number): void {
    this.reserve(end - start)
    this.units.set(from.subarray(start, end), this.length)
    this.length += end - start
  }

  private reserve(extra: number): void {
    if (this.length + extra <= this.units.length) return
    const units = new Uint16Array(Math.max(this.length + extra, this.units.length * 2))
    units.set(this.units.subarray(0, this.length))
    this.units = units
  }
}
