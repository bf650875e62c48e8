/**
 * The only file that touches the addon: its types, its loading, and a message that explains how to fix a failed load.
 * Everything here is internal; policy lives in the files that call it.
 */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { errorCodes, Qwen3Error, type Qwen3ErrorCode } from './errors'

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

/**
 * All tensors of a load as a few flat arrays: a mixture of experts has tens of thousands, and as objects they would hold the
 * event loop for many milliseconds while they cross.
 */
export interface NativeTensors {
  /** One a line. */
  names: string
  paths: string[]
  /** Index into `paths`, [n]. */
  files: Uint32Array
  /** Index into {@link nativeDTypes}, [n]. */
  dtypes: Uint8Array
  /** Offset and length in bytes, [n, 2]. */
  ranges: Float64Array
  /** Rows and columns, [n, 2]; columns 0 = a vector. */
  shapes: Float64Array
}

export const nativeDTypes: readonly NativeDType[] = ['f32', 'f16', 'bf16']

export type NativeKvFormat = 'f32' | 'bf16' | 'int8'

/** Packed formats: native/model/weight_formats.h. */
export type NativeWeightFormat = 'f32' | 'bf16' | 'int8' | 'int4' | 'int4-offset'

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
  tensors: NativeTensors
  /** Seed of a `random:` model; the tensors are then ignored. */
  random?: bigint
  device: string
  /** Level of the CPU kernels, `'auto'` = the best that runs here. */
  isa: string
  batchInvariance: 'batch' | 'full'
  weights: NativeWeightFormat
  embeddingWeights: NativeWeightFormat
  headWeights: NativeWeightFormat
  /** Where packed weights are kept between runs; `name` begins the file's name. Without it nothing is written or read. */
  weightCache?: { folder: string; name: string }
  kvCache: NativeKvFormat
  contextLength: number
  kvCacheBytes: number
  maxSequences: number
  maxWaiting: number
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

/** Drafts from the sequence's own text; engine/request.h `Speculation`. */
export interface NativeSpeculation {
  maxDraft: number
  minNgram: number
  maxNgram: number
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
  speculation?: NativeSpeculation
  maxTokens: number
  eos: Int32Array
  ignoreEos: boolean
  stop: Uint8Array[]
  cacheNamespace: bigint
  mode: 'generate' | 'logits' | 'score'
}

/** Values of {@link NativeOutput.segments}: engine/request.h `Segment`. */
export enum NativeSegment {
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
  draftTokens: number
  acceptedTokens: number
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
  ids: ArrayLike<number>
  /** One byte a token: {@link NativeSegment}, with {@link NATIVE_FORCED}. */
  segments: ArrayLike<number>
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
  draftTokens: number
  acceptedTokens: number
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

/** `written` and `mapped`: the file at `path`; `failed`: it could not be written, and `problem` says why. */
export interface NativeWeightCacheUse {
  state: 'off' | 'mapped' | 'written' | 'failed'
  path: string
  problem: string
}

export interface NativeLoaded {
  model: NativeModel
  weightCache: NativeWeightCacheUse
}

/** A GPU; `reason` says why it cannot be used, and is empty when it can. */
export interface NativeCudaDevice {
  index: number
  name: string
  computeMajor: number
  computeMinor: number
  multiprocessors: number
  memoryBytes: number
  freeBytes: number
  driver: string
  reason: string
}

export interface NativeAddon {
  abiVersion: number
  cpuInfo(): { isa: string; levels: string[]; physicalCores: number; memoryBytes: number; availableBytes: number }
  /** What device `'cuda'` would find; never throws, but may take a second. `library` is empty when there is none. */
  cudaReport(): { library: string; reason: string; devices: NativeCudaDevice[] }
  /**
   * One function per environment receives every model's outputs: at most one call is pending, and it brings all that was
   * produced since the last one, merged per request. Outputs of tokens alone come as the first `used` integers of `plain`,
   * each as `[id (low and high 32 bits), n, n ids, n segments]`; the others as objects.
   */
  setOutputHandler(handler: (used: number, outputs: NativeOutput[] | undefined) => void, plain: Int32Array): void
  /**
   * Sizes that a load would take, without touching the model's files; `blockBytes`: keys and values of 64 tokens; `held`: the
   * weights are in memory already; `availableBytes`: what the device can still take.
   */
  plan(
    spec: NativeLoadSpec,
  ): Promise<{ weightBytes: number; blockBytes: number; availableBytes: number; held: boolean; device: string }>
  load(
    spec: NativeLoadSpec,
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): { promise: Promise<NativeLoaded>; abort(): void }
}

/** The protocol's number; `kAbiVersion` in native/node/addon.cc. */
const ABI_VERSION = 6

/** The folder of package.json, found upwards from this file: from dist/ and from source alike. */
export function packageRoot(): string {
  for (let folder = __dirname; folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder
  }
  throw new Qwen3Error('INTERNAL', `No package.json above ${__dirname}: the package is incomplete; reinstall qwen3.`)
}

let loaded: NativeAddon | undefined
/** Tokens on their way from the addon; what does not fit comes as objects. */
const plain = new Int32Array(1 << 14)
/** Requests under way. The model is held too: while it works it must not be collected. */
const receivers = new Map<number, { model: NativeModel; receive(output: NativeOutput): void }>()

/** The addon of this thread. Throws `ADDON_NOT_FOUND` with what to do about it; a later call tries again. */
export function loadAddon(): NativeAddon {
  if (loaded) return loaded
  const addon = requireAddon(packageRoot())
  if (addon.abiVersion !== ABI_VERSION) {
    throw new Qwen3Error(
      'ADDON_NOT_FOUND',
      `The native addon speaks protocol ${addon.abiVersion}, this version of qwen3 needs ${ABI_VERSION}. Run \`npx qwen3 build\`, or delete the package's build folder.`,
    )
  }
  addon.setOutputHandler(dispatch, plain)
  loaded = addon
  return addon
}

function requireAddon(root: string): NativeAddon {
  try {
    // A debug or sanitizer build, by its path (CONTRIBUTING.md).
    if (process.env.QWEN3_ADDON_PATH) return require(process.env.QWEN3_ADDON_PATH) as NativeAddon
    // node-gyp-build only loads: build/Release first, then the prebuilt for this platform, architecture and libc.
    return (require('node-gyp-build') as (directory: string) => NativeAddon)(root)
  } catch (cause) {
    const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined
    const libc = report?.header?.glibcVersionRuntime
    const platform = `${process.platform}-${process.arch}${libc ? `, glibc ${libc}` : ''}, Node ${process.versions.node}`
    throw new Qwen3Error(
      'ADDON_NOT_FOUND',
      `No native addon could be loaded for ${platform}. Run \`npx qwen3 build\` to compile it here (needs a C++20 compiler and CMake 3.18 or later). Reason: ${(cause as Error).message.trim()}`,
      { subject: `${process.platform}-${process.arch}`, cause },
    )
  }
}

function dispatch(used: number, outputs: NativeOutput[] | undefined): void {
  for (let at = 0; at < used; ) {
    const id = (plain[at]! >>> 0) + plain[at + 1]! * 2 ** 32
    const n = plain[at + 2]!
    const ids: number[] = []
    const segments: number[] = []
    for (let i = at + 3; i < at + 3 + n; i++) {
      ids.push(plain[i]!)
      segments.push(plain[i + n]!)
    }
    at += 3 + 2 * n
    receivers.get(id)?.receive({ id, ids, segments })
  }
  if (!outputs) return
  for (const output of outputs) {
    const receiver = receivers.get(output.id)
    if (output.finished) receivers.delete(output.id)
    receiver?.receive(output)
  }
}

/** Queues a request; `receive` gets its outputs, the last one with `finished`. Never called before this returns. */
export function submitRequest(
  model: NativeModel,
  request: NativeRequest,
  receive: (output: NativeOutput) => void,
): number {
  const id = translateErrors(() => model.submit(request))
  receivers.set(id, { model, receive })
  return id
}

/** Runs a call into the addon; its errors come out as {@link Qwen3Error} with the caller's stack. */
export function translateErrors<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw fromNativeError(error)
  }
}

/** An error of the addon as {@link Qwen3Error}. */
export function fromNativeError(error: unknown): Qwen3Error {
  if (error instanceof Qwen3Error) return error
  const { code, message, subject } = error as { code?: string; message?: string; subject?: string }
  const known = code !== undefined && code in errorCodes ? (code as Qwen3ErrorCode) : 'INTERNAL'
  return new Qwen3Error(known, message ?? String(error), { subject, ...(known === 'INTERNAL' && { cause: error }) })
}
