/// <reference lib="esnext.disposable" preserve="true" />
/** The public API. */
export { Qwen3Error, type Qwen3ErrorCode } from './errors'
export type { ExpertLoad } from './experts'
export { type ModelInfo, type ModelStats, Qwen3, type RenderOptions } from './model'
export { type DecodeOptions, type EncodeOptions, type StreamDecoder, Tokenizer } from './tokenizer'
export type {
  AbortedError,
  ChatEvent,
  ChatMessage,
  ChatOptions,
  ChatResult,
  ChatStream,
  FinishReason,
  GenerateOptions,
  KvFormat,
  LoadOptions,
  ModelName,
  PromptLookupOptions,
  ThinkingStop,
  TokenLogprob,
  Tool,
  ToolCall,
  Usage,
  WeightFormat,
} from './types'
