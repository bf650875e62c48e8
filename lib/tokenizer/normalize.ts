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
/** Units read, and code points composed, between two yields. */
const SCAN_STEP = 1 << 16
const STEP = 2048

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

/** Whether the text is cut before `c`: nothing before it combines with it or is reordered across it. */
const isBoundary = (c: number) => combiningClass[c] === 0 && (classOf[c]! & NFC_MAYBE) === 0

/** Looks for text that may not be in NFC; it keeps its place, so that a long text can be read in several calls. */
class Scan {
  /** The last boundary before `at`: what stands from it on may change. */
  boundary: number
  private rank = 0

  constructor(
    private readonly units: Uint16Array,
    public at: number,
  ) {
    this.boundary = at
  }

  /** Reads on to `end`, or to the first code point from which the text may not be in NFC: true in that case. */
  run(end: number): boolean {
    const { units } = this
    let i = this.at
    let { boundary, rank } = this
    let dirty = false
    while (i < end) {
      if ((classOf[units[i]!]! & FLAGGED) === 0) {
        rank = 0
        boundary = i++
        continue
      }
      const c = codePointAt(units, i)
      const next = combiningClass[c]!
      if (classOf[c]! & NFC_MAYBE || (next !== 0 && next < rank)) {
        dirty = true
        break
      }
      if (next === 0) boundary = i
      rank = next
      i += width(c)
    }
    this.at = i
    this.boundary = boundary
    this.rank = rank
    return dirty
  }

  /** Goes on after a stretch that was composed. */
  moveTo(i: number): void {
    this.at = i
    this.boundary = i
    this.rank = 0
  }
}

/** Returns the NFC of `units[start, end)`: the same array when it is in NFC already. */
export function normalize(units: Uint16Array, start: number, end: number): NfcText {
  const steps = normalizeSteps(units, start, end)
  for (;;) {
    const step = steps.next()
    if (step.done) return step.value
  }
}

/** {@link normalize} in steps well below a millisecond each. */
export function* normalizeSteps(units: Uint16Array, start: number, end: number): Generator<undefined, NfcText> {
  const scan = new Scan(units, start)
  let out: UnitBuffer | undefined
  let copied = start
  let paused = start
  while (scan.at < end) {
    if (copied - paused >= STEP) {
      paused = copied
      yield
    }
    if (scan.run(Math.min(end, scan.at + SCAN_STEP))) {
      out ??= new UnitBuffer(end - start + 64)
      const from = Math.max(copied, scan.boundary)
      out.copy(units, copied, from)
      copied = yield* composeSegment(units, from, end, out)
      scan.moveTo(copied)
    } else if (scan.at < end) {
      yield
    }
  }
  if (!out) return { units, start, end }
  out.copy(units, copied, end)
  return { units: out.units, start: 0, end: out.length }
}

/** Composes the text from the boundary at `start` to the next one, whose index it returns. */
function* composeSegment(
  units: Uint16Array,
  start: number,
  end: number,
  out: UnitBuffer,
): Generator<undefined, number> {
  const segment = new Segment()
  let i = start
  for (let work = 1; i < end; work++) {
    const c = codePointAt(units, i)
    if (i > start && isBoundary(c)) break
    segment.decompose(c)
    i += width(c)
    if (work % STEP === 0) yield
  }
  yield* segment.order()
  yield* segment.recompose()
  for (let k = 0; k < segment.count; k++) {
    out.push(segment.codePoints[k]!)
    if (k % STEP === STEP - 1) yield
  }
  return i
}

/** A stretch of text between two boundaries: decomposed, put in canonical order, composed. */
class Segment {
  codePoints = new Int32Array(16)
  count = 0
  private ranks = new Uint8Array(16)

  decompose(c: number): void {
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
  *order(): Generator<undefined, void> {
    for (let i = 0; i < this.count; i++) {
      if (this.ranks[i] === 0) continue
      let end = i + 1
      for (; end < this.count && this.ranks[end] !== 0; end++) if (end % STEP === 0) yield
      if (end - i <= 16) this.insertionSort(i, end)
      else yield* this.countingSort(i, end)
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
  private *countingSort(start: number, end: number): Generator<undefined, void> {
    const { codePoints, ranks } = this
    const next = new Int32Array(257)
    for (let i = start; i < end; i++) {
      next[ranks[i]! + 1]!++
      if (i % STEP === 0) yield
    }
    for (let rank = 0; rank < 256; rank++) next[rank + 1]! += next[rank]!
    const run = codePoints.slice(start, end)
    for (let i = 0; i < run.length; i++) {
      const rank = combiningClass[run[i]!]!
      const to = start + next[rank]!++
      codePoints[to] = run[i]!
      ranks[to] = rank
      if (i % STEP === 0) yield
    }
  }

  /** Canonical composition in place: a mark joins the last starter unless one of its own or a higher class is between. */
  *recompose(): Generator<undefined, void> {
    const { codePoints, ranks } = this
    let starter = -1
    let lastRank = 0
    let kept = 0
    for (let i = 0; i < this.count; i++) {
      if (i % STEP === STEP - 1) yield
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
