/** Text to ids: well-formed units, added tokens, NFC, split, merge; whole, or in short steps. */
import { type AddedToken, AddedTokenMatcher } from './added'
import { WordCache } from './cache'
import { LongMerge, Merger } from './merge'
import { normalize, normalizeSteps } from './normalize'
import { matchEnd, matchSteps } from './split'
import * as unicode from './unicode'
import type { Vocabulary } from './vocab'

// Bound once: compiled code reads an import through its module's object, which is slow in hot loops.
const { classOf, SURROGATE } = unicode

/** Longer words are rare and are merged each time. */
const MAX_CACHED_UNITS = 48
const NONE: ArrayLike<number> = []
/** Work between two yields of the stepwise path, in units or merge steps: well below a millisecond. */
const STEP = 2048
/** Words of more units are merged in steps. */
const LONG_WORD = 512
/** Buffers above this size are not kept between calls. */
const KEEP = 1 << 16

/** A piece of text: an added token where `id` >= 0, else text to be split and merged. */
interface Part {
  id: number
  units: Uint16Array
  start: number
  end: number
}
const PAUSE: Part = { id: -1, units: new Uint16Array(0), start: 0, end: 0 }
const NOTHING = new AddedTokenMatcher([])

/** Where {@link cut} looks: `units[base, end)` is one text. */
interface Search {
  matcher: AddedTokenMatcher
  units: Uint16Array
  base: number
  end: number
}

/** Cuts a text at its added tokens, with a pause after every {@link KEEP} units without one. */
function* cut({ matcher, units, base, end }: Search, literal: ArrayLike<number>): Generator<Part> {
  if (matcher.empty) {
    if (end > base) yield { id: -1, units, start: base, end }
    return
  }
  let taken = base
  for (let from = base; from < end; ) {
    const stop = Math.min(end, from + KEEP)
    const match = matcher.find(units, { base, taken, from, stop, end }, literal)
    if (!match) {
      from = stop
      yield PAUSE
      continue
    }
    if (match.start > taken) yield { id: -1, units, start: taken, end: match.start }
    if (match.end > match.start) yield { id: match.id, units, start: match.start, end: match.end }
    taken = match.end
    from = match.resume
  }
  if (end > taken) yield { id: -1, units, start: taken, end }
}

/** What of a text may be matched as added tokens. */
export interface Spans {
  /** false: nothing. */
  parseSpecial: boolean
  /** Ascending pairs [start, end) of UTF-16 offsets where nothing may be, although `parseSpecial` is true. */
  literal: ArrayLike<number>
}

/** Growing list of ids. */
class IdBuffer {
  ids = new Int32Array(1024)
  length = 0

  /** Makes room for `extra` more ids and returns the array. */
  reserve(extra: number): Int32Array {
    if (this.length + extra > this.ids.length) {
      const larger = new Int32Array(Math.max(this.length + extra, this.ids.length * 2))
      larger.set(this.ids.subarray(0, this.length))
      this.ids = larger
    }
    return this.ids
  }

  push(id: number): void {
    this.reserve(1)[this.length++] = id
  }

  finish(): Int32Array {
    const ids = this.ids.slice(0, this.length)
    this.length = 0
    if (this.ids.length > KEEP) this.ids = new Int32Array(1024)
    return ids
  }
}

export class Encoder {
  private readonly raw: AddedTokenMatcher
  private readonly normalized: AddedTokenMatcher
  private readonly cache = new WordCache()
  private readonly merger: Merger
  private scratch = new Uint16Array(8192)
  private readonly output = new IdBuffer()
  private bytes = new Uint8Array(1024)

  constructor(
    private readonly vocabulary: Vocabulary,
    added: readonly AddedToken[],
  ) {
    unicode.fillTables()
    this.raw = new AddedTokenMatcher(added.filter((token) => !token.normalized))
    this.normalized = new AddedTokenMatcher(
      added.filter((t) => t.normalized).map((t) => ({ ...t, content: normalizeText(t.content) })),
    )
    this.merger = new Merger(vocabulary)
  }

  encode(text: string, spans: Spans): Int32Array {
    this.output.length = 0
    const { length } = text
    if (this.scratch.length < length) this.scratch = new Uint16Array(length + (length >> 2))
    const units = this.scratch
    writeUnits(text, units, 0)
    fixSurrogates(units, 0, length)
    for (const part of this.parts(units, length, spans)) {
      if (part.id >= 0) this.output.push(part.id)
      else this.encodeWords(part.units, part.start, part.end, this.output)
    }
    if (this.scratch.length > KEEP) this.scratch = new Uint16Array(8192)
    return this.output.finish()
  }

  /** The same in steps well below a millisecond each; the generator returns the ids. */
  *steps(text: string, spans: Spans): Generator<undefined, Int32Array> {
    const { length } = text
    const units = new Uint16Array(length)
    for (let i = 0; i < length; i += KEEP) {
      writeUnits(text.slice(i, i + KEEP), units, i)
      yield
    }
    for (let i = 0; i < length; ) {
      const stop = pairEnd(units, Math.min(length, i + KEEP), length)
      fixSurrogates(units, i, stop)
      i = stop
      yield
    }
    const out = new IdBuffer()
    for (const part of this.parts(units, length, spans)) {
      if (part.id >= 0) out.push(part.id)
      else yield* this.wordSteps(part.units, part.start, part.end, out)
      yield
    }
    return out.finish()
  }

  /**
   * Cuts the text into added tokens (`id` >= 0) and normalised stretches between them. Empty stretches are pauses of
   * the stepwise path.
   */
  private *parts(units: Uint16Array, length: number, spans: Spans): Generator<Part> {
    const search: Search = { matcher: spans.parseSpecial ? this.raw : NOTHING, units, base: 0, end: length }
    for (const part of cut(search, spans.literal)) {
      if (part.id >= 0 || part.start === part.end) yield part
      else yield* this.normalizedParts(units, part.start, part.end, spans)
    }
  }

  private *normalizedParts(units: Uint16Array, start: number, end: number, spans: Spans): Generator<Part> {
    const steps = normalizeSteps(units, start, end)
    let step = steps.next()
    for (; !step.done; step = steps.next()) yield PAUSE
    const nfc = step.value
    let matcher = spans.parseSpecial ? this.normalized : NOTHING
    let literal = spans.literal
    if (literal.length > 0 && nfc.units !== units) {
      // Offsets moved: where the stretch holds literal text, it is all taken as literal.
      if (overlaps(literal, start, end)) matcher = NOTHING
      literal = NONE
    }
    yield* cut({ matcher, units: nfc.units, base: nfc.start, end: nfc.end }, literal)
  }

  private encodeWords(units: Uint16Array, start: number, end: number, out: IdBuffer): void {
    for (let i = start; i < end; ) {
      const stop = matchEnd(units, i, end)
      this.encodeWord(units, i, stop, out)
      i = stop
    }
  }

  private encodeWord(units: Uint16Array, start: number, end: number, out: IdBuffer): void {
    if (end - start > MAX_CACHED_UNITS) {
      const count = this.mergeWord(units, start, end)
      out.reserve(count).set(this.merger.ids.subarray(0, count), out.length)
      out.length += count
      return
    }
    const ids = out.reserve(256)
    const hash = this.cache.hash(units, start, end)
    let count = this.cache.find(units, start, end, hash, ids, out.length)
    if (count === 0) {
      count = this.mergeWord(units, start, end)
      for (let i = 0; i < count; i++) ids[out.length + i] = this.merger.ids[i]!
      this.cache.add(units, start, end, hash, this.merger.ids, count)
    }
    out.length += count
  }

  private *wordSteps(units: Uint16Array, start: number, end: number, out: IdBuffer): Generator<undefined, void> {
    let work = 0
    for (let i = start; i < end; ) {
      const stop = yield* matchSteps(units, i, end)
      if (stop - i <= LONG_WORD) this.encodeWord(units, i, stop, out)
      else yield* this.longWordSteps(units, i, stop, out)
      work += stop - i + 1
      if (work >= STEP) {
        work = 0
        yield
      }
      i = stop
    }
  }

  private *longWordSteps(units: Uint16Array, start: number, end: number, out: IdBuffer): Generator<undefined, void> {
    const bytes = new Uint8Array(3 * (end - start))
    let length = 0
    for (let i = start; i < end; ) {
      const stop = pairEnd(units, Math.min(end, i + KEEP), end)
      length += writeUtf8(units, i, stop, bytes.subarray(length))
      i = stop
      yield
    }
    const long = new LongMerge(this.vocabulary, bytes, length)
    while (!long.run(STEP)) yield
    for (;;) {
      const count = long.write(out.reserve(KEEP), out.length, KEEP)
      if (count === 0) return
      out.length += count
      yield
    }
  }

  /** Merges a word; its ids are the first of `merger.ids`. */
  private mergeWord(units: Uint16Array, start: number, end: number): number {
    const most = 3 * (end - start)
    if (this.bytes.length < most || this.bytes.length > 4 * KEEP) this.bytes = new Uint8Array(Math.max(1024, most))
    const length = writeUtf8(units, start, end, this.bytes)
    return this.merger.merge(this.bytes, length)
  }
}

/** Copies the units of a string: one native call, where charCodeAt would look at the string's shape each time. */
function writeUnits(text: string, units: Uint16Array, at: number): void {
  Buffer.from(units.buffer, units.byteOffset, units.byteLength).write(text, 2 * at, 'utf16le')
}

/** Lone surrogates become U+FFFD, as TextEncoder has it. */
function fixSurrogates(units: Uint16Array, start: number, end: number): void {
  for (let i = start; i < end; i++) {
    if ((classOf[units[i]!]! & SURROGATE) === 0) continue
    const high = (units[i]! & 0xfc00) === 0xd800
    if (high && i + 1 < end && (units[i + 1]! & 0xfc00) === 0xdc00) i++
    else units[i] = 0xfffd
  }
}

/** `i`, or one more where it stands between the halves of a pair. */
const pairEnd = (units: Uint16Array, i: number, end: number) => (i < end && (units[i]! & 0xfc00) === 0xdc00 ? i + 1 : i)

/** UTF-8 of well-formed units; returns its length. */
function writeUtf8(units: Uint16Array, start: number, end: number, bytes: Uint8Array): number {
  let at = 0
  for (let i = start; i < end; i++) {
    let c = units[i]!
    if (c < 0x80) {
      bytes[at++] = c
      continue
    }
    if (c < 0x800) {
      bytes[at++] = 0xc0 | (c >> 6)
    } else {
      if ((c & 0xfc00) === 0xd800) {
        c = ((c & 0x3ff) << 10) + (units[++i]! & 0x3ff) + 0x10000
        bytes[at++] = 0xf0 | (c >> 18)
        bytes[at++] = 0x80 | ((c >> 12) & 0x3f)
      } else {
        bytes[at++] = 0xe0 | (c >> 12)
      }
      bytes[at++] = 0x80 | ((c >> 6) & 0x3f)
    }
    bytes[at++] = 0x80 | (c & 0x3f)
  }
  return at
}

function overlaps(literal: ArrayLike<number>, start: number, end: number): boolean {
  for (let i = 0; i < literal.length; i += 2) if (literal[i]! < end && literal[i + 1]! > start) return true
  return false
}

/** NFC of a string by the tables of this tokenizer. */
export function normalizeText(text: string): string {
  const units = new Uint16Array(text.length)
  writeUnits(text, units, 0)
  fixSurrogates(units, 0, units.length)
  const nfc = normalize(units, 0, units.length)
  return Buffer.from(nfc.units.buffer, nfc.units.byteOffset + 2 * nfc.start, 2 * (nfc.end - nfc.start)).toString(
    'utf16le',
  )
}
