/** Qwen3's tokenizer: public names of this directory. */
export type { DecodeOptions, StreamDecoder } from './decode'
export { type EncodeOptions, type TextSegment, Tokenizer } from './tokenizer'
export type { ByteTable } from './vocab'
