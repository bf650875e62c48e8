import { TextDecoder } from 'node:util'

/** What the chat needs of a tokenizer; the class in lib/tokenizer has it. */
export interface ChatTokenizer {
  encode(text: string, options?: { parseSpecial?: boolean; literal?: ArrayLike<number> }): Int32Array
  addedTokens(): { id: number; content: string; special: boolean }[]
  idToBytes(id: number): Uint8Array
  /** One above the highest id that has a token. */
  readonly vocabSize: number
}

/** Ids of the control tokens that the chat knows; -1 = the vocabulary has none. */
export interface ControlIds {
  thinkOpen: number
  thinkClose: number
  toolOpen: number
  toolClose: number
  imEnd: number
  endOfText: number
}

export function controlIds(tokenizer: ChatTokenizer): ControlIds {
  const ids = new Map(tokenizer.addedTokens().map(({ content, id }) => [content, id]))
  const of = (text: string) => ids.get(text) ?? -1
  return {
    thinkOpen: of('<think>'),
    thinkClose: of('</think>'),
    toolOpen: of('<tool_call>'),
    toolClose: of('</tool_call>'),
    imEnd: of('<|im_end|>'),
    endOfText: of('<|endoftext|>'),
  }
}

const EMPTY = new Uint8Array(0)
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function wholeText(bytes: Uint8Array): string | undefined {
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

export interface StreamToken {
  bytes: Uint8Array
  /** The text, when the bytes are whole characters by themselves. */
  text: string | undefined
}

/** Bytes and text of tokens for streaming: cached, and defined for every id that a model can say. */
export class TokenBytes {
  private readonly cache = new Map<number, StreamToken>()
  private readonly placeholder: Uint8Array

  /** `placeholder`: text of ids without a token (random: models); real models' unused rows are empty. */
  constructor(
    private readonly tokenizer: ChatTokenizer,
    placeholder = '',
  ) {
    this.placeholder = new TextEncoder().encode(placeholder)
  }

  of(id: number): Uint8Array {
    return this.token(id).bytes
  }

  token(id: number): StreamToken {
    let token = this.cache.get(id)
    if (token === undefined) {
      let bytes = id >= 0 && id < this.tokenizer.vocabSize ? this.tokenizer.idToBytes(id) : EMPTY
      if (bytes.length === 0) bytes = this.placeholder
      token = { bytes, text: wholeText(bytes) }
      if (this.cache.size >= 8192) this.cache.clear()
      this.cache.set(id, token)
    }
    return token
  }
}
