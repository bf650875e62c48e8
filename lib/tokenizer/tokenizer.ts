/** The public tokenizer: text to ids and back. */
import { Qwen3Error, throwIfAborted } from '../errors'
import type { AddedToken } from './added'
import { buildVocabulary } from './builder'
import { toByteAlphabet } from './bytes'
import { type DecodeOptions, StreamDecoder } from './decode'
import { describeTokenizerJson } from './description'
import { Encoder, type Spans } from './encoder'
import { finish, finishInSlices } from './json'
import { describeDirectory } from './load'
import type { ByteTable, Vocabulary } from './vocab'

/** Options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /**
   * Whether the text of added tokens such as `<|im_end|>` or `<think>` becomes their ids. Default false: text of users
   * never turns into control tokens.
   */
  parseSpecial?: boolean
  /**
   * With `parseSpecial`: stretches of the text that are plain all the same, as ascending pairs `[start, end, ...]` of
   * UTF-16 offsets. An added token that would touch one is not matched. The text is still encoded as one piece.
   */
  literal?: ArrayLike<number>
}

/** A part of a text whose added tokens are matched or not; see {@link Tokenizer.encodeSegments}. */
export interface TextSegment {
  text: string
  parseSpecial: boolean
}

/**
 * Byte-level BPE as Qwen3 uses it: NFC, Qwen's split pattern, merges by rank. Equal, id for id, to the Rust
 * `tokenizers` package without post-processor, truncation and padding.
 */
export class Tokenizer {
  /** One above the highest token id. */
  readonly vocabSize: number
  /** Ids below are accepted when decoding: at least `vocabSize`; those without a token decode to nothing. */
  readonly vocabLimit: number
  private readonly vocabulary: Vocabulary
  private readonly encoder: Encoder
  private readonly added: ReadonlyMap<number, AddedToken>
  private readonly special: Uint8Array
  private ids: Map<string, number> | undefined

  private constructor(vocabulary: Vocabulary, addedTokens: readonly AddedToken[]) {
    this.vocabulary = vocabulary
    this.vocabSize = this.vocabulary.size
    this.vocabLimit = this.vocabulary.limit
    this.encoder = new Encoder(this.vocabulary, addedTokens)
    this.added = new Map(addedTokens.map((token) => [token.id, token]))
    this.special = new Uint8Array(this.vocabSize)
    for (const token of addedTokens) if (token.special) this.special[token.id] = 1
  }

  /**
   * Reads `tokenizer.json`, or `vocab.json` and `merges.txt` (with the added tokens of `tokenizer_config.json`), from a
   * model directory. Throws `MODEL_NOT_FOUND`, `BAD_MODEL_FILE` or `UNSUPPORTED`.
   */
  static async load(directory: string | URL): Promise<Tokenizer> {
    const source = await describeDirectory(directory)
    return new Tokenizer(await finishInSlices(buildVocabulary(source)), source.addedTokens)
  }

  /**
   * Makes a tokenizer of the parsed object of a `tokenizer.json`. `vocabLimit` is the number of rows of the model's
   * embedding (`vocab_size` of its config), which may exceed the tokens; `file` is named in errors.
   */
  static fromJson(json: unknown, options: { vocabLimit?: number; file?: string } = {}): Tokenizer {
    const { vocabLimit, file = 'tokenizer.json' } = options
    // Through its text, so that objects are checked by the same code as files.
    const source = finish(describeTokenizerJson(Buffer.from(JSON.stringify(json) ?? 'null'), file))
    return new Tokenizer(finish(buildVocabulary({ ...source, vocabLimit })), source.addedTokens)
  }

  /** The ids of a text. Lone surrogates are encoded as U+FFFD. Nothing is added before or after. */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    return this.encoder.encode(checkText(text), checkSpans(text, options))
  }

  /** {@link encode} in slices of at most a millisecond, so that a long text does not block the event loop. */
  async encodeAsync(text: string, options: EncodeOptions & { signal?: AbortSignal } = {}): Promise<Int32Array> {
    const { signal } = options
    const steps = this.encoder.steps(checkText(text), checkSpans(text, options))
    return finishInSlices(steps, () => throwIfAborted(signal))
  }

  /**
   * Encodes parts of one text, joined: only the parts with `parseSpecial` can yield added tokens, and an added token
   * that reaches into another part is not matched. Text that is contiguous is encoded as if it were one part.
   */
  encodeSegments(parts: readonly TextSegment[]): Int32Array {
    const literal: number[] = []
    let at = 0
    for (const { text, parseSpecial } of parts) {
      const { length } = checkText(text)
      if (!parseSpecial && length > 0) literal.push(at, at + length)
      at += length
    }
    return this.encode(parts.map((part) => part.text).join(''), { parseSpecial: true, literal })
  }

  /** Number of ids of {@link encode}. */
  countTokens(text: string, options: EncodeOptions = {}): number {
    return this.encode(text, options).length
  }

  /** The text of ids; bytes that are not UTF-8 become U+FFFD. Throws `INVALID_ARGUMENT` for an id beyond the vocabulary. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const decoder = this.decoder(options)
    return decoder.push(ids) + decoder.flush()
  }

  /** A decoder for ids that come one after another. */
  decoder(options: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder(this.vocabulary, options.skipSpecial ? this.special : undefined)
  }

  /** The bytes of one token, as a copy. */
  idToBytes(id: number): Uint8Array {
    const { bytes, offsets } = this.vocabulary.table
    if (!this.hasToken(id)) return new Uint8Array(0)
    return bytes.slice(offsets[id]!, offsets[id + 1]!)
  }

  /** The token as vocabulary files write it (in the byte alphabet, `Ġthe`; added tokens as they are), or undefined. */
  idToToken(id: number): string | undefined {
    if (!this.hasToken(id)) return undefined
    return this.added.get(id)?.content ?? toByteAlphabet(this.idToBytes(id))
  }

  /** The id of a token as {@link idToToken} writes it, or undefined. */
  tokenToId(token: string): number | undefined {
    if (!this.ids) {
      this.ids = new Map()
      for (let id = 0; id < this.vocabSize; id++) {
        const text = this.idToToken(id)
        if (text !== undefined) this.ids.set(text, id)
      }
    }
    return this.ids.get(token)
  }

  /** Whether the tokenizer's files call the token special: a control token that is no part of the readable text. */
  isSpecial(id: number): boolean {
    return this.special[id] === 1
  }

  /** The added tokens, in order of id: control tokens, special or not. */
  addedTokens(): { id: number; content: string; special: boolean }[] {
    const tokens = [...this.added.values()].map(({ id, content, special }) => ({ id, content, special }))
    return tokens.sort((a, b) => a.id - b.id)
  }

  /** The bytes of all tokens; do not change them. */
  byteTable(): ByteTable {
    return this.vocabulary.table
  }

  private hasToken(id: number): boolean {
    if (Number.isInteger(id) && id >= 0 && id < this.vocabLimit) return this.vocabulary.known[id] === 1
    const message = `id: expected a token id from 0 to ${this.vocabLimit - 1}, received ${String(id)}`
    throw new Qwen3Error('INVALID_ARGUMENT', message, { subject: 'id' })
  }
}

function checkText(text: unknown): string {
  if (typeof text === 'string') return text
  const received = text === null ? 'null' : typeof text
  throw new Qwen3Error('INVALID_ARGUMENT', `text: expected a string, received ${received}`, { subject: 'text' })
}

function checkSpans(text: string, options: EncodeOptions): Spans {
  const { parseSpecial = false, literal = [] } = options
  if (typeof parseSpecial !== 'boolean') {
    const message = `parseSpecial: expected true or false, received ${String(parseSpecial)}`
    throw new Qwen3Error('INVALID_ARGUMENT', message, { subject: 'parseSpecial' })
  }
  let last = 0
  for (let i = 0; i < literal.length; i++) {
    const offset = literal[i]!
    if (!Number.isInteger(offset) || offset < last || offset > text.length || literal.length % 2 !== 0) {
      const message = `literal: expected ascending pairs of offsets up to ${text.length}, received ${String(offset)} at ${i}`
      throw new Qwen3Error('INVALID_ARGUMENT', message, { subject: 'literal' })
    }
    last = offset
  }
  return { parseSpecial, literal }
}
