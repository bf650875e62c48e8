/** Builds a {@link Vocabulary} from files, in short steps, without making a string of any token. */
import type { AddedToken } from './added'
import { BYTE_TO_CHAR, bad, CHAR_TO_BYTE, quote, toByteAlphabet } from './bytes'
import type { JsonReader, JsonSpan } from './json'
import { Vocabulary } from './vocab'

/** Where a vocabulary comes from. */
export interface VocabularySource {
  vocab: { reader: JsonReader; span: JsonSpan; field: string }
  merges: { reader: JsonReader; span: JsonSpan } | { lines: Buffer; file: string }
  addedTokens: readonly AddedToken[]
  /** Ids must be below; undefined: a bound derived from the number of tokens. */
  vocabLimit?: number
}

/** Tokens between two yields. */
const STEP = 1024
const MAX_TOKENS = 1 << 24
/** Bytes of one token, or of the two of a merge. */
const MAX_TOKEN_BYTES = 1 << 16

export function* buildVocabulary(source: VocabularySource): Generator<undefined, Vocabulary> {
  const tokens = new TokenTable()
  yield* readVocab(source.vocab, tokens)
  const { file } = source.vocab.reader
  addAddedTokens(source.addedTokens, tokens, file)
  const size = tokens.checkIds(source.vocabLimit, file)
  const byteToId = Int32Array.from(BYTE_TO_CHAR, (char, byte) => {
    tokens.scratch[0] = byte
    const id = tokens.find(0, 1)
    if (id < 0) throw bad(file, `model.vocab: no token for byte 0x${byte.toString(16).padStart(2, '0')} (${char})`)
    return id
  })
  const merges = new MergeList()
  yield* 'lines' in source.merges
    ? mergeLines(source.merges, tokens, merges)
    : mergeArray(source.merges, tokens, merges)
  const bytes = yield* tokens.inOrder(size)
  const vocabulary = new Vocabulary(bytes, source.vocabLimit ?? size, byteToId, merges.count)
  for (let rank = 0; rank < merges.count; rank++) {
    vocabulary.addMerge(merges.triples[3 * rank]!, merges.triples[3 * rank + 1]!, rank, merges.triples[3 * rank + 2]!)
    if (rank % STEP === 0) yield
  }
  vocabulary.indexBytePairs()
  return vocabulary
}

/** Tokens by their bytes. */
class TokenTable {
  /** The token at hand: readers write here. */
  readonly scratch = new Uint8Array(2 * MAX_TOKEN_BYTES)
  /** Where in it a space stood between two tokens, or -1. */
  space = -1
  private bytes = new Uint8Array(1 << 16)
  private used = 0
  /** id, start, end of every token. */
  private entries = new Int32Array(3 * 4096)
  count = 0
  /** Open addressing; entry index + 1. */
  private slots = new Int32Array(1 << 12)
  /** Added tokens that are not in the vocabulary proper: not found by {@link find}. */
  private readonly added: { id: number; bytes: Uint8Array }[] = []

  /** Keeps `scratch[0, length)`; false when it is known already. */
  add(length: number, id: number): boolean {
    if (this.count * 2 >= this.slots.length) this.growSlots()
    if (3 * this.count === this.entries.length) this.entries = enlarged(this.entries)
    if (this.used + length > this.bytes.length) this.bytes = enlarged(this.bytes, this.used + length)
    const slot = this.slotOf(this.scratch, 0, length)
    if (this.slots[slot] !== 0) return false
    for (let i = 0; i < length; i++) this.bytes[this.used + i] = this.scratch[i]!
    this.entries[3 * this.count] = id
    this.entries[3 * this.count + 1] = this.used
    this.used += length
    this.entries[3 * this.count + 2] = this.used
    this.slots[slot] = ++this.count
    return true
  }

  addAdded(id: number, bytes: Uint8Array): void {
    this.added.push({ id, bytes })
  }

  /** The id of `scratch[start, end)`, or -1. */
  find(start: number, end: number): number {
    const entry = this.slots[this.slotOf(this.scratch, start, end)]!
    return entry === 0 ? -1 : this.entries[3 * (entry - 1)]!
  }

  /** The slot that holds the bytes, or the free one where they belong. */
  private slotOf(from: Uint8Array, start: number, end: number): number {
    const mask = this.slots.length - 1
    let h = end - start
    for (let i = start; i < end; i++) h = Math.imul(h ^ from[i]!, 0x9e3779b1) ^ (h >>> 15)
    for (let slot = (h ^ (h >>> 16)) & mask; ; slot = (slot + 1) & mask) {
      const entry = this.slots[slot]!
      if (entry === 0) return slot
      const at = this.entries[3 * entry - 2]!
      if (this.entries[3 * entry - 1]! - at !== end - start) continue
      let i = start
      while (i < end && this.bytes[at + i - start] === from[i]) i++
      if (i === end) return slot
    }
  }

  private growSlots(): void {
    this.slots = new Int32Array(this.slots.length * 8)
    for (let entry = 0; entry < this.count; entry++) {
      this.slots[this.slotOf(this.bytes, this.entries[3 * entry + 1]!, this.entries[3 * entry + 2]!)] = entry + 1
    }
  }

  /** One above the highest id; checks that ids are unique and below the limit. */
  checkIds(vocabLimit: number | undefined, file: string): number {
    let size = 0
    for (let entry = 0; entry < this.count; entry++) size = Math.max(size, this.entries[3 * entry]! + 1)
    for (const { id } of this.added) size = Math.max(size, id + 1)
    const tokens = this.count + this.added.length
    if (size > (vocabLimit ?? 4 * tokens + 4096)) {
      const bound = vocabLimit === undefined ? `${tokens} tokens` : `a vocab_size of ${vocabLimit}`
      throw bad(file, `model.vocab: id ${size - 1} does not go with ${bound}`)
    }
    const owner = new Int32Array(size)
    for (let entry = 0; entry < this.count; entry++) {
      const id = this.entries[3 * entry]!
      if (owner[id] !== 0) {
        throw bad(file, `model.vocab: id ${id} belongs to both ${this.quote(owner[id]! - 1)} and ${this.quote(entry)}`)
      }
      owner[id] = entry + 1
    }
    for (const { id, bytes } of this.added) {
      if (owner[id] === 0) continue
      const content = quote(new TextDecoder().decode(bytes))
      throw bad(file, `added_tokens: id ${id} of ${content} belongs to ${this.quote(owner[id]! - 1)} in model.vocab`)
    }
    return size
  }

  private quote(entry: number): string {
    return quote(toByteAlphabet(this.bytes.subarray(this.entries[3 * entry + 1]!, this.entries[3 * entry + 2]!)))
  }

  /** The tokens in order of id, as the tables of {@link Vocabulary}. */
  *inOrder(size: number): Generator<undefined, { bytes: Uint8Array; offsets: Uint32Array; known: Uint8Array }> {
    const offsets = new Uint32Array(size + 1)
    const known = new Uint8Array(size)
    const { entries, count } = this
    for (let e = 0; e < 3 * count; e += 3) {
      known[entries[e]!] = 1
      offsets[entries[e]! + 1] = entries[e + 2]! - entries[e + 1]!
    }
    for (const { id, bytes } of this.added) {
      known[id] = 1
      offsets[id + 1] = bytes.length
    }
    yield
    for (let id = 0; id < size; id++) offsets[id + 1]! += offsets[id]!
    const all = new Uint8Array(offsets[size]!)
    for (let e = 0; e < 3 * count; e += 3) {
      let to = offsets[entries[e]!]!
      for (let i = entries[e + 1]!; i < entries[e + 2]!; i++) all[to++] = this.bytes[i]!
      if (e % STEP === 0) yield
    }
    for (const { id, bytes } of this.added) all.set(bytes, offsets[id]!)
    return { bytes: all, offsets, known }
  }
}

function enlarged<T extends Uint8Array | Int32Array>(array: T, needed = 0): T {
  const larger = new (array.constructor as new (length: number) => T)(Math.max(needed, array.length * 2))
  larger.set(array)
  return larger
}

/** Merges as triples left, right, merged, in order of rank. */
class MergeList {
  triples = new Int32Array(3 * 4096)
  count = 0

  /** Adds the merge of `scratch[0, split)` and `scratch[split, end)`. */
  add(tokens: TokenTable, split: number, end: number, where: (problem: string) => Error): void {
    if (3 * this.count === this.triples.length) this.triples = enlarged(this.triples)
    const left = tokens.find(0, split)
    const right = tokens.find(split, end)
    const merged = tokens.find(0, end)
    if (left < 0 || right < 0 || merged < 0) {
      const [from, to] = left < 0 ? [0, split] : right < 0 ? [split, end] : [0, end]
      const missing = quote(toByteAlphabet(tokens.scratch.subarray(from, to)))
      throw where(`${missing} is not in the vocabulary`)
    }
    this.triples[3 * this.count] = left
    this.triples[3 * this.count + 1] = right
    this.triples[3 * this.count++ + 2] = merged
  }
}

function* readVocab(source: VocabularySource['vocab'], tokens: TokenTable): Generator<undefined, void> {
  const { reader, field } = source
  reader.at = source.span.start
  if (!reader.enter(0x7b, 0x7d)) return
  let start = 0
  const text = () => {
    reader.at = start
    reader.peek()
    return quote(reader.string())
  }
  do {
    start = reader.at
    const length = readToken(reader, tokens, 0, field)
    if (length === 0) throw bad(reader.file, `${field}: a token is empty`)
    reader.expect(0x3a)
    const id = readId(reader)
    if (id < 0) {
      const shown = showValue(reader)
      throw bad(reader.file, `${field}: the id of ${text()} is ${shown}, not a whole number`)
    }
    if (!tokens.add(length, id)) throw bad(reader.file, `${field}: the key ${text()} stands twice`)
    if (tokens.count > MAX_TOKENS) throw bad(reader.file, `${field}: more than ${MAX_TOKENS} tokens`)
    if (tokens.count % STEP === 0) yield
  } while (reader.more(0x7d))
}

/** Reads a whole number from 0 to 2^31 - 1; -1, with the cursor before it, for anything else. */
function readId(reader: JsonReader): number {
  const { bytes } = reader
  const first = reader.peek()
  const start = reader.at
  let id = 0
  let digit = (bytes[reader.at] ?? 0) - 0x30
  for (; digit >= 0 && digit <= 9 && reader.at - start < 10; digit = (bytes[++reader.at] ?? 0) - 0x30)
    id = id * 10 + digit
  const next = bytes[reader.at]
  const whole = next !== 0x2e && next !== 0x65 && next !== 0x45 && !(digit >= 0 && digit <= 9)
  if (reader.at > start && whole && id < 2 ** 31 && (first !== 0x30 || reader.at === start + 1)) return id
  reader.at = start
  return -1
}

function showValue(reader: JsonReader): string {
  const first = reader.peek()
  if (first === 0x7b || first === 0x5b) return 'a container'
  const value = reader.scalar()
  return typeof value === 'string' ? quote(value) : String(value)
}

/**
 * Reads the string at the cursor as a token in the byte alphabet into `tokens.scratch` from `at` on and returns the
 * end. With `spaced` one space may stand in it (merges as strings), noted in `tokens.space`.
 */
function readToken(reader: JsonReader, tokens: TokenTable, at: number, field: string, spaced = false): number {
  const { bytes } = reader
  const out = tokens.scratch
  if (reader.peek() !== 0x22) reader.fail('expected a string')
  const quoteAt = reader.at
  let length = at
  tokens.space = -1
  let i = quoteAt + 1
  for (;;) {
    let char = bytes[i++]
    if (char === undefined || char < 0x20) {
      reader.at = i
      reader.fail('string without an end, or with a control character')
    }
    if (char === 0x22) break
    if (char === 0x5c) {
      const hex = bytes[i] === 0x75
      const written = bytes.toString('latin1', i - 1, i + (hex ? 5 : 1))
      char = escapedChar(written) ?? reader.fail('bad escape')
      i += hex ? 5 : 1
    } else if (char >= 0xc0 && char < 0xe0) {
      char = ((char & 0x1f) << 6) | (bytes[i++]! & 0x3f)
    } else if (char >= 0x80) {
      char = 0x10000
    }
    const byte = char < 0x144 ? CHAR_TO_BYTE[char]! : -1
    if (byte >= 0 && length - at < MAX_TOKEN_BYTES) out[length++] = byte
    else if (spaced && char === 0x20 && tokens.space < 0) tokens.space = length
    else throw foreign(reader, quoteAt, field)
  }
  reader.at = i
  return length
}

function escapedChar(written: string): number | undefined {
  try {
    return (JSON.parse(`"${written}"`) as string).charCodeAt(0)
  } catch {
    return undefined
  }
}

/** The error of the string at `start`: it is too long, or not in the byte alphabet. */
function foreign(reader: JsonReader, start: number, field: string): Error {
  reader.at = start
  const text = reader.string()
  const char = [...text].find((c) => (CHAR_TO_BYTE[c.codePointAt(0)!] ?? -1) < 0)
  if (char === undefined) return bad(reader.file, `${field}: ${quote(text)} is too long for a token`)
  const code = char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')
  return bad(reader.file, `${field}: ${quote(text)} holds U+${code}, which stands for no byte`)
}

function addAddedTokens(added: readonly AddedToken[], tokens: TokenTable, file: string): void {
  const encoder = new TextEncoder()
  for (const { id, content } of added) {
    const bytes = encoder.encode(content)
    // The vocabulary may hold the token too, under the same id; there its characters are those of the byte alphabet.
    const written = Array.from(content, (char) => CHAR_TO_BYTE[char.codePointAt(0)!] ?? -1)
    const writable = !written.includes(-1)
    if (writable) tokens.scratch.set(written)
    const known = writable ? tokens.find(0, written.length) : -1
    if (known < 0) tokens.addAdded(id, bytes)
    else if (known !== id) throw bad(file, `added_tokens: ${quote(content)} has id ${id}, but ${known} in model.vocab`)
  }
}

function* mergeArray(
  { reader, span }: { reader: JsonReader; span: JsonSpan },
  tokens: TokenTable,
  merges: MergeList,
): Generator<undefined, void> {
  reader.at = span.start
  if (!reader.enter(0x5b, 0x5d)) return
  const where = (problem: string) => bad(reader.file, `model.merges[${merges.count}]: ${problem}`)
  do {
    const first = reader.peek()
    if (first === 0x5b) {
      reader.at++
      if (reader.peek() !== 0x22) throw where('expected two tokens')
      const left = readToken(reader, tokens, 0, 'model.merges')
      if (!reader.more(0x5d) || reader.peek() !== 0x22) throw where('expected two tokens, received one')
      const end = readToken(reader, tokens, left, 'model.merges')
      if (reader.more(0x5d)) throw where('expected two tokens, received more')
      merges.add(tokens, left, end, where)
    } else {
      if (first !== 0x22) throw where('expected two tokens')
      const length = readToken(reader, tokens, 0, 'model.merges', true)
      if (tokens.space <= 0 || tokens.space === length) throw where('expected two tokens with a space between')
      merges.add(tokens, tokens.space, length, where)
    }
    if (merges.count % STEP === 0) yield
  } while (reader.more(0x5d))
}

/** merges.txt: a line for each merge, its tokens with a space between; the first line may be a comment. */
function* mergeLines(
  { lines, file }: { lines: Buffer; file: string },
  tokens: TokenTable,
  merges: MergeList,
): Generator<undefined, void> {
  let number = 0
  for (let start = 0; start < lines.length; ) {
    let end = lines.indexOf(0x0a, start)
    if (end < 0) end = lines.length
    const line = lines.toString('utf8', start, end).replace(/\r$/, '')
    start = end + 1
    number++
    if (number % STEP === 0) yield
    if (line === '' || (number === 1 && line.startsWith('#version'))) continue
    const where = (problem: string) => bad(file, `line ${number} (${quote(line)}): ${problem}`)
    const split = line.indexOf(' ')
    if (split <= 0 || split === line.length - 1 || line.includes(' ', split + 1)) throw where('expected two tokens')
    if (line.length > MAX_TOKEN_BYTES) throw where('is too long')
    let length = 0
    for (let i = 0; i < line.length; i++) {
      if (i === split) continue
      const byte = CHAR_TO_BYTE[line.charCodeAt(i)] ?? -1
      if (byte < 0) throw where(`holds ${quote(line.charAt(i))}, which stands for no byte`)
      tokens.scratch[length++] = byte
    }
    merges.add(tokens, split, length, where)
  }
}
