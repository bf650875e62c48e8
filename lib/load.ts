/** From a model's name to a running engine. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Chat } from './chat'
import { abortedError, Qwen3Error, throwIfAborted } from './errors'
import { planMemory } from './memory'
import {
  fromNativeError,
  loadAddon,
  type NativeAddon,
  type NativeLoaded,
  type NativeLoadSpec,
  type NativeModel,
  translateErrors,
} from './native'
import { checkLoadOptions } from './options'
import { packTensors } from './pack-tensors'
import { Tokenizer } from './tokenizer'
import type { KvFormat, LoadOptions, ModelName, WeightFormat } from './types'
import { warnOnce } from './warn'
import { weightCacheOf } from './weight-cache'
import { describeModel, type ModelDescription, yarnFor } from './weights'

/** What a loaded model is and how it was set up. */
export interface ModelInfo {
  /** As given to load(). */
  name: string
  architecture: 'qwen3' | 'qwen3_moe'
  parameters: number
  vocabSize: number
  /** Tokens per sequence, prompt and completion together. */
  contextLength: number
  /** Context up to which positions are never rescaled. */
  nativeWindow: number
  kvCacheBytes: number
  maxSequences: number
  weights: WeightFormat
  embeddingWeights: WeightFormat
  headWeights: WeightFormat
  kvCache: KvFormat
  device: string
  /**
   * What became of the option `weightCache`. `mapped`: the weights are those of the file at `path`; `written`: they were
   * packed and written there for the next load; `failed`: they could not be written (a warning says why).
   */
  weightCache: { state: 'off' | 'mapped' | 'written' | 'failed'; path?: string }
  /** What its template can: `'hybrid'` switches thinking per request, `'none'` has no template. */
  thinking: 'hybrid' | 'always' | 'never' | 'none'
}

export interface LoadedModel {
  native: NativeModel
  tokenizer: Tokenizer
  chat: Chat
  info: ModelInfo
  /** Experts of a layer, and which layers have them. */
  experts: [number, Uint8Array]
}

const DEFAULT_SEQUENCES = 64
const DEFAULT_WAITING = 65_536

export async function loadModel(name: ModelName | URL, options: LoadOptions): Promise<LoadedModel> {
  checkLoadOptions(options)
  const { signal } = options
  throwIfAborted(signal)
  const addon = loadAddon()
  const description = await describeModel(name, { signal, randomSeed: options.randomSeed })
  const tokenizer = await loadTokenizer(description)
  const chat = Chat.create(description, tokenizer)
  throwIfAborted(signal)
  const spec = await loadSpec(addon, description, tokenizer, options)
  throwIfAborted(signal)
  const loaded = await loadNative(addon, spec, options)
  const { state, problem } = loaded.weightCache
  if (state === 'failed') {
    warnOnce(
      `The packed weights of ${description.name} could not be kept in a file: ${problem}. The model works; the next load packs them again.`,
    )
  }
  const { experts, moeLayers } = description.config
  return {
    native: loaded.model,
    tokenizer,
    chat,
    info: describeInfo(description, spec, chat, loaded),
    experts: [experts, moeLayers],
  }
}

/** Synthetic models have more ids than the tokenizer they borrow. */
async function loadTokenizer(description: ModelDescription): Promise<Tokenizer> {
  if (description.random === undefined) return Tokenizer.load(description.directory)
  const file = join(description.directory, 'tokenizer.json')
  return Tokenizer.fromJson(JSON.parse(await readFile(file, 'utf8')), { vocabLimit: description.config.vocab, file })
}

async function loadSpec(
  addon: NativeAddon,
  description: ModelDescription,
  tokenizer: Tokenizer,
  options: LoadOptions,
): Promise<NativeLoadSpec> {
  const { config } = description
  const rope = options.rope ?? 'auto'
  const formats = weightFormats(options)
  const kvDefault = formats.weights === 'f32' ? 'f32' : 'bf16'
  const kvCache = options.kvCache === undefined || options.kvCache === 'auto' ? kvDefault : options.kvCache
  const weightCache = weightCacheOf(description, options.weightCache)
  const window = longestContext(description, options)
  const spec: NativeLoadSpec = {
    key: description.key,
    config,
    tensors: await packTensors(description.tensors),
    ...(description.random !== undefined && { random: description.random }),
    device: options.device ?? 'auto',
    isa: options.isa ?? 'auto',
    batchInvariance: options.batchInvariance ?? 'batch',
    ...formats,
    ...(weightCache && { weightCache }),
    kvCache,
    contextLength: options.contextLength ?? window.free,
    kvCacheBytes: options.kvCacheBytes ?? 0,
    maxSequences: options.maxSequences ?? DEFAULT_SEQUENCES,
    maxWaiting: options.maxWaiting ?? DEFAULT_WAITING,
    threads: options.threads ?? 0,
    rope,
    ...tokenTable(description, tokenizer),
  }
  const sizes = await addon.plan(spec).catch((error: unknown) => {
    throw fromNativeError(error)
  })
  const memory = planMemory({
    name: description.name,
    weightBytes: sizes.held ? 0 : sizes.weightBytes,
    blockBytes: sizes.blockBytes,
    availableBytes: sizes.availableBytes,
    window: window.free,
    contextLength: options.contextLength,
    kvCacheBytes: options.kvCacheBytes,
  })
  const yarn = yarnFor(description, { contextLength: memory.contextLength, yarnFactor: options.yarnFactor, rope })
  return { ...spec, ...memory, ...(yarn && { yarn }), device: sizes.device }
}

/** What `'auto'` and a missing option stand for. */
function weightFormats(options: LoadOptions): Pick<NativeLoadSpec, 'weights' | 'embeddingWeights' | 'headWeights'> {
  const chosen = (format: 'auto' | WeightFormat | undefined, otherwise: WeightFormat) =>
    format === undefined || format === 'auto' ? otherwise : format
  const weights = chosen(options.weights, 'bf16')
  return {
    weights,
    embeddingWeights: chosen(options.embeddingWeights, weights),
    headWeights: chosen(options.headWeights, weights),
  }
}

/** `free`: the default context; `most`: what may be asked for. */
function longestContext(description: ModelDescription, options: LoadOptions): { free: number; most: number } {
  const { nativeWindow } = description.config
  const { rope = 'auto', yarnFactor, contextLength } = options
  const own = rope === 'static' ? description.yarn?.factor : undefined
  const free = rope === 'none' ? nativeWindow : Math.floor(nativeWindow * (yarnFactor ?? own ?? 1))
  const most = rope === 'none' || yarnFactor !== undefined ? free : Number.MAX_SAFE_INTEGER
  if (contextLength !== undefined && contextLength > most) {
    const why = rope === 'none' ? "rope: 'none'" : `yarnFactor ${yarnFactor}`
    throw new Qwen3Error(
      'INVALID_ARGUMENT',
      `contextLength: expected at most ${most} with ${why} (native window ${nativeWindow}), received ${contextLength}.`,
      { subject: 'contextLength' },
    )
  }
  return { free, most }
}

/** The bytes of every id of the model; ids without a token get the description's placeholder. */
function tokenTable(
  description: ModelDescription,
  tokenizer: Tokenizer,
): Pick<NativeLoadSpec, 'tokenBytes' | 'tokenOffsets'> {
  const { bytes, offsets } = tokenizer.byteTable()
  const rows = description.config.vocab
  const known = tokenizer.vocabSize
  if (known > rows) {
    throw new Qwen3Error(
      'BAD_MODEL_FILE',
      `${description.directory}: the tokenizer has ids up to ${known - 1}, the model only ${rows} rows.`,
      { subject: description.directory },
    )
  }
  const filler = new TextEncoder().encode(description.placeholder ?? '')
  const used = offsets[known]!
  const tokenBytes = new Uint8Array(used + filler.length * (rows - known))
  const tokenOffsets = new Uint32Array(rows + 1)
  tokenBytes.set(bytes.subarray(0, used))
  tokenOffsets.set(offsets.subarray(0, known + 1))
  for (let id = known; id < rows; id++) {
    tokenBytes.set(filler, tokenOffsets[id]!)
    tokenOffsets[id + 1] = tokenOffsets[id]! + filler.length
  }
  return { tokenBytes, tokenOffsets }
}

async function loadNative(addon: NativeAddon, spec: NativeLoadSpec, options: LoadOptions): Promise<NativeLoaded> {
  const { onProgress, signal } = options
  // A callback of the caller that throws ends the load with what it threw, and not the process.
  let thrown: { error: unknown } | undefined
  const report = (loadedBytes: number, totalBytes: number) => {
    try {
      if (!thrown) onProgress?.({ loadedBytes, totalBytes })
    } catch (error) {
      thrown = { error }
      load.abort()
    }
  }
  const load = translateErrors(() => addon.load(spec, report))
  signal?.addEventListener('abort', load.abort, { once: true })
  try {
    const loaded = await load.promise
    if (!thrown) return loaded
    await loaded.model.close()
    throw thrown.error
  } catch (error) {
    if (thrown) throw thrown.error
    if (signal?.aborted) throw abortedError(signal.reason, 'Loading was aborted by its signal.')
    throw fromNativeError(error)
  } finally {
    signal?.removeEventListener('abort', load.abort)
  }
}

function describeInfo(
  description: ModelDescription,
  spec: NativeLoadSpec,
  chat: Chat,
  { weightCache: { state, path } }: NativeLoaded,
): ModelInfo {
  const { contextLength, kvCacheBytes, maxSequences, weights, embeddingWeights, headWeights, kvCache } = spec
  return {
    name: description.name,
    architecture: description.architecture,
    parameters: description.parameters,
    vocabSize: description.config.vocab,
    nativeWindow: description.config.nativeWindow,
    contextLength,
    kvCacheBytes,
    maxSequences,
    weights,
    embeddingWeights,
    headWeights,
    weightCache: { state, ...(path !== '' && { path }) },
    kvCache,
    device: spec.device,
    thinking: chat.capabilities.thinking,
  }
}
