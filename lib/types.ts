/** Public types of the API. */
import type { Qwen3Error } from './errors'

/** A built-in name, `random:<row>`, or a path that begins with `./`, `../`, `/` or is a file URL. */
export type ModelName = 'nano' | 'nano-moe' | (string & {})

/**
 * How matrices are kept in memory, in bits a weight: `'f32'` 32, `'bf16'` 16, `'int8'` 8.25 (groups of 64 with a scale),
 * `'int4'` 4.5 (groups of 32 with a scale), `'int4-offset'` 4.75 (groups of 32 with scale and offset: closer to the original
 * than `'int4'`). The integer formats are quantised while loading, from weights of any type.
 */
export type WeightFormat = 'f32' | 'bf16' | 'int8' | 'int4' | 'int4-offset'

/** How keys and values are kept: 4 bytes an element, 2, or 1 with an f32 scale for every position and head. */
export type KvFormat = 'f32' | 'bf16' | 'int8'

export interface LoadOptions {
  /**
   * `'auto'` (default): a GPU, where the CUDA library of this package is installed and a GPU can hold the model in the formats
   * asked for; else the CPU. `info.device` says which. `'cuda'` or `'cuda:<n>'`: that GPU. A forced device works or throws
   * `UNSUPPORTED`, with the reason. `qwen3 inspect --devices` lists what is there.
   */
  device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | (string & {})
  /**
   * Instruction set of the CPU kernels; default `'auto'`: the best that the machine has. A forced one works or throws
   * `UNSUPPORTED`. `qwen3 doctor` lists those of a machine.
   */
  isa?: 'auto' | 'scalar' | 'avx2' | 'avxvnni' | 'avx512' | 'avx512vnni' | 'avx512bf16' | 'amx' | (string & {})
  /**
   * What a token's bits depend on besides its own sequence. `'batch'` (default): on nothing else in the step, however many run
   * together; on a GPU a position may differ in its last bits between prefill and decode, so that an answer continued from the
   * prefix cache may differ from one that was computed anew. `'full'`: on that neither, slower on a GPU. The CPU is always `'full'`.
   */
  batchInvariance?: 'batch' | 'full'
  /** Format of the packed weights; `'auto'` (default) = bf16. */
  weights?: 'auto' | WeightFormat
  /** Format of the embedding table; `'auto'` (default) = as `weights`. */
  embeddingWeights?: 'auto' | WeightFormat
  /**
   * Format of the matrix that makes the logits; `'auto'` (default) = as `weights`. Models with tied embeddings keep one table
   * where both formats agree, else two.
   */
  headWeights?: 'auto' | WeightFormat
  /**
   * Keeps the packed weights in a file and maps it at the next load: no packing, and processes share the memory. `true`:
   * under `$XDG_CACHE_HOME/qwen3/weights` (else `~/.cache/qwen3/weights`); a string: in that folder. Default false: nothing
   * is written. A file that is damaged or of another model, version or machine is written again; where it cannot be written
   * there is a warning and the model loads all the same. Do not cut short a file that is in use; deleting it is safe.
   */
  weightCache?: boolean | string
  /**
   * Format of the KV cache; `'auto'` (default) = bf16 (f32 with f32 weights). `'int8'` takes about half of bf16's memory, and
   * decoding after a long context is faster; CPU only.
   */
  kvCache?: 'auto' | KvFormat
  /** Tokens per sequence, prompt and completion together. Default: what fits, up to the model's window. */
  contextLength?: number
  /** Worker threads of the CPU backend; default: physical cores. */
  threads?: number
  /** Total bytes of the paged KV cache. */
  kvCacheBytes?: number
  /** Sequences that run at once; more wait. */
  maxSequences?: number
  /** Requests that may wait for a place; more are refused with `BUSY`. Default 65,536. */
  maxWaiting?: number
  /** `'auto'`: YaRN per sequence, only for those beyond the native window; `'static'`: always; `'none'`: never. */
  rope?: 'auto' | 'static' | 'none'
  /** Context extension factor; default: contextLength / native window, at least 1. */
  yarnFactor?: number
  /** What requests do that do not say so themselves; default `false`. See {@link GenerateOptions.speculation}. */
  speculation?: false | PromptLookupOptions
  /** Seed of the weights of a `random:` model. */
  randomSeed?: number
  onProgress?: (progress: { loadedBytes: number; totalBytes: number }) => void
  signal?: AbortSignal
}

export interface ToolCall {
  id: string
  name: string
  arguments: Record<string, unknown>
}

/** A message in OpenAI's shape. `reasoning_content` carries an assistant turn's thinking. */
export interface ChatMessage {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool'
  content?: string | null | { type: 'text'; text: string }[]
  reasoning_content?: string | null
  tool_calls?: {
    id?: string
    type?: 'function'
    function: { name: string; arguments: string | Record<string, unknown> }
  }[]
  tool_call_id?: string
  name?: string
}

/** A tool in OpenAI's shape. */
export interface Tool {
  type: 'function'
  function: { name: string; description?: string; parameters?: Record<string, unknown>; strict?: boolean }
}

/**
 * Prompt lookup: where the last tokens stood before, in the prompt or the output, the engine drafts the tokens that followed
 * there and checks them all in one step. It pays where an answer repeats the prompt or itself (edits of code, quotes,
 * tables, working in steps); elsewhere the engine soon leaves it off by itself.
 *
 * The output is the same with and without it, token for token, also when sampling: a draft token stands only where it is
 * the one that the seed draws. Only time changes, and `usage.draftTokens` with it.
 */
export interface PromptLookupOptions {
  type: 'prompt-lookup'
  /** Most tokens drafted for one step, 1 to 64; default 16. The engine drafts as many as its step times say will pay. */
  maxDraft?: number
  /** Fewest tokens that must have stood before, 1 to 16; default 2. */
  minNgram?: number
  /** Most tokens that are looked up, minNgram to 16; default 4. The longest match counts, then the most recent. */
  maxNgram?: number
}

export interface GenerateOptions {
  /** Most generated tokens; default: the remaining context. */
  maxTokens?: number
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  presencePenalty?: number
  frequencyPenalty?: number
  repetitionPenalty?: number
  /** Token id or exact token text -> added to its logit. */
  logitBias?: Record<number, number>
  /** Default: random, and returned in the result. */
  seed?: number
  /** Stop strings, matched in the answer only; not part of the text. */
  stop?: string | string[]
  /** true: log-probability of each token; n: with n alternatives. */
  logprobs?: boolean | number
  ignoreEos?: boolean
  /** Drafts of the next tokens, which change the speed and nothing else; `false`: none. Default: the model's load option. */
  speculation?: false | PromptLookupOptions
  signal?: AbortSignal
}

export interface ChatOptions extends GenerateOptions {
  /** Default: true where the template can. */
  thinking?: boolean
  /** Most tokens of thinking; 0 = no thinking; default unlimited. */
  thinkingBudget?: number
  thinkingDeadlineMs?: number
  /** Tokens kept for the answer out of maxTokens or the context. */
  answerReserve?: number
  /** End thinking when a cycle of tokens repeats three times. Default true. */
  loopBreaker?: boolean
  /** Within the last tenth of the budget end at the last line or sentence that is likely to fit. Default true. */
  softLanding?: boolean
  tools?: Tool[]
}

export type FinishReason = 'stop' | 'length' | 'toolCalls'
export type ThinkingStop = 'natural' | 'budget' | 'deadline' | 'reserve' | 'loop' | 'requested' | 'unfinished'

export interface Usage {
  promptTokens: number
  cachedTokens: number
  thinkingTokens: number
  answerTokens: number
  toolCallTokens: number
  forcedTokens: number
  /** thinking + answer + toolCall + forced. */
  completionTokens: number
  /** Tokens that were drafted (option `speculation`), and how many of them became part of the completion. */
  draftTokens: number
  acceptedTokens: number
  timings: { queueMs: number; prefillMs: number; firstTokenMs: number; decodeMs: number; rescaleMs: number }
}

export interface TokenLogprob {
  id: number
  token: string
  logprob: number
  /**
   * Which part of the output the token's text belongs to. `control`: none; tags, end tokens, the blank line after
   * `</think>`, and what a stop string cut off.
   */
  segment: 'thinking' | 'text' | 'toolCall' | 'control'
  top: { id: number; token: string; logprob: number }[]
}

export interface ChatResult {
  thinking: string
  text: string
  toolCalls: ToolCall[]
  ids: Int32Array
  /** The next turn: `messages.push(result.message)`. */
  message: ChatMessage
  seed: number
  stopSequence: string | null
  finishReason: FinishReason
  /** null when the request did not think. */
  thinkingStop: ThinkingStop | null
  usage: Usage
  /** With the option `logprobs`: one entry for each of `ids`, in order. Forced tokens have log-probability 0. */
  logprobs?: TokenLogprob[]
}

export type ChatEvent =
  | { type: 'thinking' | 'text'; text: string; ids: Int32Array }
  | { type: 'toolCallDelta'; index: number; id?: string; name?: string; argumentsDelta: string }
  | { type: 'toolCall'; index: number; call: ToolCall }
  | { type: 'done'; result: ChatResult }

/** What an aborted stream rejects with: name `AbortError` or `TimeoutError`, code `ABORTED`, the result so far. */
export interface AbortedError extends Qwen3Error {
  code: 'ABORTED'
  partial: ChatResult
}

/** Starts at once, consumed or not. Not thenable. */
export interface ChatStream extends AsyncIterable<ChatEvent> {
  /** Always the same promise; never causes an unhandledRejection. */
  result(): Promise<ChatResult>
  /** Ends the thinking now: the wrap-up follows, then the answer. No effect outside thinking. */
  endThinking(): void
  /**
   * The thinking budget from now on. Called right after chat(), before anything is awaited, it holds from the first token;
   * later, what has been thought meanwhile counts and stays.
   */
  setThinkingBudget(tokens: number): void
  abort(reason?: unknown): void
}
