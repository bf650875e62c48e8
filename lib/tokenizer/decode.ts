/** Ids to text. Tokens are bytes; a character may be spread over several of them. */
import { Qwen3Error } from '../errors'
import type { Vocabulary } from './vocab'

/** Which tokens a decoder leaves out. */
export interface DecodeOptions {
  /** Leave out the tokens that the tokenizer's files call special. Default false. */
  skipSpecial?: boolean
}

/** Number of bytes of the UTF-8 sequence that begins with `lead`; 1 for anything that begins none. */
const sequenceLength = (lead: number) => (lead < 0xc2 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 1)

/** How many of the last bytes may begin a character that is not complete yet: 0 to 3. */
function incompleteTail(bytes: Uint8Array, length: number): number {
  for (let back = 1; back <= 3 && back <= length; back++) {
    const byte = bytes[length - back]!
    if (byte >= 0xc0) return sequenceLength(byte) > back ? back : 0
    if (byte < 0x80) return 0
  }
  return 0
}

/** Turns ids into text as they come. Never returns half a character; what is incomplete waits for the next push. */
export class StreamDecoder {
  private bytes = Buffer.allocUnsafe(256)
  private pending = 0

  /** @internal Use {@link Tokenizer.decoder}. */
  constructor(
    private readonly vocabulary: Vocabulary,
    private readonly skip: Uint8Array | undefined,
  ) {}

  /** The text that `ids` complete. Throws `INVALID_ARGUMENT` for an id beyond the vocabulary; nothing is consumed then. */
  push(ids: ArrayLike<number> | number): string {
    const list = typeof ids === 'number' ? [ids] : ids
    const length = this.append(list)
    const kept = incompleteTail(this.bytes, length)
    const text = this.bytes.toString('utf8', 0, length - kept)
    this.bytes.copyWithin(0, length - kept, length)
    this.pending = kept
    return text
  }

  /** Ends the text: bytes that never became a character are returned as U+FFFD. The decoder can be used anew. */
  flush(): string {
    const text = this.bytes.toString('utf8', 0, this.pending)
    this.pending = 0
    return text
  }

  private append(ids: ArrayLike<number>): number {
    const { bytes: all, offsets } = this.vocabulary.table
    let length = this.pending
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!
      if (!isTokenOrRow(this.vocabulary, id)) throw unknownId(this.vocabulary, id, i)
      if (id >= this.vocabulary.size || this.skip?.[id]) continue
      const start = offsets[id]!
      const end = offsets[id + 1]!
      if (length + end - start > this.bytes.length) this.grow(length + end - start)
      for (let k = start; k < end; k++) this.bytes[length++] = all[k]!
    }
    return length
  }

  private grow(needed: number): void {
    const larger = Buffer.allocUnsafe(Math.max(needed, this.bytes.length * 2))
    larger.set(this.bytes)
    this.bytes = larger
  }
}

const isTokenOrRow = (vocabulary: Vocabulary, id: number) => Number.isInteger(id) && id >= 0 && id < vocabulary.limit

function unknownId(vocabulary: Vocabulary, id: number, index: number): Qwen3Error {
  const message = `ids[${index}]: expected a token id from 0 to ${vocabulary.limit - 1}, received ${String(id)}`
  return new Qwen3Error('INVALID_ARGUMENT', message, { subject: 'ids' })
}
