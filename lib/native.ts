/**
 * The only file that touches the addon: its types, its loading, and a message that explains how to fix a failed load.
 * Everything here is internal; policy lives in the files that call it.
 */

export type NativeDType = 'f32' | 'f16' | 'bf16'

/** A tensor of the checkpoint; offsets are absolute in the file and already checked against its real size. */
export interface NativeTensor {
  name: string
  path: string
  offset: number
  bytes: number
  dtype: NativeDType
  shape: number[]
}

export interface NativeYarn {
  factor: number
  originalMaxPositionEmbeddings: number
  betaFast: number
  betaSlow: number
  attentionFactor?: number
}

export interface NativeConfig {
  layers: number
  hidden: number
  qHeads: number
  kvHeads: number
  headDim: number
  ffn: number
  vocab: number
  rmsNormEps: number
  ropeTheta: number
  tiedEmbeddings: boolean
  nativeWindow: number
  experts: number
  topKExperts: number
  moeFfn: number
  normTopkProb: boolean
  /** One flag a layer: 1 = mixture of experts. */
  moeLayers: Uint8Array
}

export interface NativeLoadSpec {
  /** Registry key: models with equal keys share packed weights (real paths, mtimes; or `random:row:seed`). */
  key: string
  config: NativeConfig
  tensors: NativeTensor[]
  /** Seed of a `random:` model; the tensors are then ignored. */
  random?: bigint
  device: string
  weights: 'f32' | 'bf16'
  kvCache: 'f32' | 'bf16'
  contextLength: number
  kvCacheBytes: number
  maxSequences: number
  threads: number
  rope: 'auto' | 'static' | 'none'
  yarn?: NativeYarn
  /** Bytes of every token: token i is `tokenBytes[tokenOffsets[i] .. tokenOffsets[i + 1]]`. */
  tokenBytes: Uint8Array
  tokenOffsets: Uint32Array
}

export interface NativeSegmentPlan {
  canThink: boolean
  startsInThink: boolean
  thinkOpen: number
  thinkClose: number
  toolOpen: number
  toolClose: number
  wrapUp: Int32Array
  budget: number
  deadlineMs: number
  answerReserve: number
  loopBreaker: boolean
  softLanding: boolean
}

export interface NativeRequest {
  prompt: Int32Array
  temperature: number
  topP: number
  topK: number
  minP: number
  presencePenalty: number
  frequencyPenalty: number
  repetitionPenalty: number
  seed: bigint
  choice: number
  logitBiasIds: Int32Array
  logitBiasValues: Float32Array
  /** -1: none; 0: the chosen token's; n: that many alternatives too. */
  topLogprobs: number
  segments: NativeSegmentPlan
  maxTokens: number
  eos: Int32Array
  ignoreEos: boolean
  stop: Uint8Array[]
  cacheNamespace: bigint
  mode: 'generate' | 'logits' | 'score'
}

/** Values of {@link NativeOutput.segments}: engine/request.h `Segment`. */
export const enum NativeSegment {
  Prompt = 0,
  Think = 1,
  Closing = 2,
  Answer = 3,
  ToolCall = 4,
}

/** Set in a segment byte when the token was forced (the wrap-up) and not sampled. */
export const NATIVE_FORCED = 0x80

export interface NativeUsage {
  promptTokens: number
  cachedTokens: number
  thinkingTokens: number
  answerTokens: number
  toolCallTokens: number
  forcedTokens: number
  queueMs: number
  prefillMs: number
  firstTokenMs: number
  decodeMs: number
  rescaleMs: number
}

/** What one request produced since the last callback. */
export interface NativeOutput {
  /** The id returned by submit. */
  id: number
  ids: Int32Array
  /** One byte a token: {@link NativeSegment}, with {@link NATIVE_FORCED}. */
  segments: Uint8Array
  logprobs?: { logprob: Float32Array; topIds: Int32Array; topLogprobs: Float32Array; topCount: number }
  finished?: {
    reason: 'stop' | 'length' | 'aborted' | 'error'
    thinkingStop: 'none' | 'natural' | 'budget' | 'deadline' | 'reserve' | 'loop' | 'requested' | 'unfinished'
    stopIndex: number
    trimBytes: number
    usage: NativeUsage
    values?: Float32Array
    error?: { code: string; message: string; subject: string }
  }
}

export interface NativeStats {
  running: number
  waiting: number
  totalBlocks: number
  freeBlocks: number
  cachedBlocks: number
  blockBytes: number
  weightBytes: number
  steps: number
  promptTokens: number
  cachedTokens: number
  generatedTokens: number
  expertCounts: Float64Array
}

export interface NativeModel {
  /** Validates and queues; throws an error with `code` and `subject`. The id is unique in this environment. */
  submit(request: NativeRequest): number
  cancel(id: number): void
  endThinking(id: number): void
  setThinkingBudget(id: number, tokens: number): void
  stats(): NativeStats
  /** Resolves when every request has ended and the memory that only this model held is released. */
  close(): Promise<void>
}

export interface NativeAddon {
  abiVersion: number
  cpuInfo(): { isa: string; levels: string[]; physicalCores: number; memoryBytes: number; availableBytes: number }
  /** One function per environment receives every model's outputs; called at most once per event loop turn. */
  setOutputHandler(handler: (outputs: NativeOutput[]) => void): void
  /** Sizes that a load would take, without touching memory. */
  plan(spec: NativeLoadSpec): { weightBytes: number; blockBytes: number }
  load(
    spec: NativeLoadSpec,
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): { promise: Promise<NativeModel>; abort(): void }
}
