/** The model: what a prompt is, who may call, and which calls are under way. The engine below does the rest. */
import type { RequestPlan } from './chat'
import { abortedError, Qwen3Error, received } from './errors'
import { type ExpertLoad, expertLoad } from './experts'
import { type LoadedModel, loadModel, type ModelInfo } from './load'
import { BLOCK_TOKENS } from './memory'
import { type NativeOutput, type NativeRequest, submitRequest, translateErrors } from './native'
import { checkChatOptions, checkGenerateOptions, checkIds, checkSignalOptions } from './options'
import { type ActiveStream, TokenStream } from './stream'
import type { Tokenizer } from './tokenizer'
import type {
  ChatMessage,
  ChatOptions,
  ChatStream,
  GenerateOptions,
  LoadOptions,
  ModelName,
  Tool,
  WeightFormat,
} from './types'
import { warnOnce } from './warn'

export type { ModelInfo } from './load'

/** What a model is doing, and what it has done since it was loaded. */
export interface ModelStats {
  /** Sequences in the current step, and those that wait for a place. */
  running: number
  waiting: number
  steps: number
  promptTokens: number
  cachedTokens: number
  generatedTokens: number
  /** Tokens that were drafted (option `speculation`), and how many of them were chosen. */
  draftTokens: number
  acceptedTokens: number
  /** Of the packed weights, and the formats that they are in. Norms are f32, a router of experts is bf16 or f32. */
  weightBytes: number
  weightFormats: { weights: WeightFormat; embedding: WeightFormat; head: WeightFormat }
  /** The paged cache; `cachedBlocks` hold prefixes that a later prompt can reuse and are free for others as well. */
  kvCache: { blockTokens: number; blockBytes: number; totalBlocks: number; freeBlocks: number; cachedBlocks: number }
  /** How evenly a mixture of experts used its experts. */
  experts?: ExpertLoad
}

export interface RenderOptions {
  thinking?: boolean
  thinkingBudget?: number
  tools?: Tool[]
}

/** Texts up to this length are encoded in the call; longer ones in slices, so that the event loop is never held for 1 ms. */
const SHORT_TEXT = 2048

/** A loaded Qwen3 model. Made by {@link Qwen3.load}. */
export class Qwen3 {
  /** The model's tokenizer. */
  readonly tokenizer: Tokenizer
  /** What was loaded, and the sizes that were chosen. */
  readonly info: Readonly<ModelInfo>
  readonly #loaded: LoadedModel
  /** Of requests that do not say. */
  readonly #speculation: LoadOptions['speculation']
  readonly #active = new Set<ActiveStream>()
  #closing: Promise<void> | undefined

  private constructor(loaded: LoadedModel, speculation: LoadOptions['speculation']) {
    this.#loaded = loaded
    this.#speculation = speculation
    this.tokenizer = loaded.tokenizer
    this.info = Object.freeze(loaded.info)
  }

  /**
   * Loads `'nano'`, `'nano-moe'`, `'random:<row>'` or a folder (a path that begins with `./`, `../` or `/`, or a file URL).
   * Rejects with `MODEL_NOT_FOUND`, `BAD_MODEL_FILE`, `UNSUPPORTED`, `OUT_OF_MEMORY`, `INVALID_ARGUMENT`,
   * `ADDON_NOT_FOUND`, or `ABORTED` when the signal aborts.
   */
  static async load(name: ModelName | URL, options: LoadOptions = {}): Promise<Qwen3> {
    // Copied at once: what becomes of the caller's object has no effect.
    const speculation = options?.speculation && { ...options.speculation }
    return new Qwen3(await loadModel(name, options), speculation)
  }

  /**
   * Answers a conversation; a string is one user message. Starts at once. Throws `INVALID_ARGUMENT` for bad messages or
   * options; later failures (`CONTEXT_OVERFLOW`, `ABORTED`, ...) come through the stream and its result().
   */
  chat(messages: string | ChatMessage[], options: ChatOptions = {}): ChatStream {
    this.#requireOpen()
    checkChatOptions(options, this.info.vocabSize)
    const { chat } = this.#loaded
    const rendered = chat.render(messages, options)
    const encoding = { parseSpecial: true, literal: rendered.literal }
    return this.#start(
      chat.plan(rendered, this.#withDefaults(options)),
      rendered.text,
      encoding,
      options.signal,
      this.chat,
    )
  }

  /** Continues a text (in which the text of control tokens counts) or token ids, without a template. */
  generate(prompt: string | ArrayLike<number>, options: GenerateOptions = {}): ChatStream {
    this.#requireOpen()
    checkGenerateOptions(options, this.info.vocabSize)
    if (prompt === '') {
      throw new Qwen3Error('INVALID_ARGUMENT', 'prompt: expected text that is not empty, or token ids, received "".', {
        subject: 'prompt',
      })
    }
    const input = typeof prompt === 'string' ? prompt : checkIds(prompt, this.info.vocabSize)
    const plan = this.#loaded.chat.planGenerate(this.#withDefaults(options))
    return this.#start(plan, input, { parseSpecial: true }, options.signal, this.generate)
  }

  /** The logits that follow `ids`: `[vocabSize]`. */
  async logits(ids: ArrayLike<number>, options: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    return this.#query('logits', ids, options)
  }

  /** The log-probability of each id after the first, given those before it: `[ids.length - 1]`. */
  async score(ids: ArrayLike<number>, options: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    return this.#query('score', ids, options)
  }

  /** The prompt that chat() would use, as text. */
  renderChat(messages: string | ChatMessage[], options: RenderOptions = {}): string {
    this.#requireOpen()
    checkChatOptions(options, this.info.vocabSize)
    return this.#loaded.chat.render(messages, options).text
  }

  stats(): ModelStats {
    this.#requireOpen()
    const stats = translateErrors(() => this.#loaded.native.stats())
    const { blockBytes, totalBlocks, freeBlocks, cachedBlocks, expertCounts, ...counts } = stats
    const { weights, embeddingWeights, headWeights } = this.info
    return {
      ...counts,
      weightFormats: { weights, embedding: embeddingWeights, head: headWeights },
      kvCache: { blockTokens: BLOCK_TOKENS, blockBytes, totalBlocks, freeBlocks, cachedBlocks },
      ...(expertCounts.length > 0 && { experts: expertLoad(expertCounts, ...this.#loaded.experts) }),
    }
  }

  /**
   * Ends what is under way with `ABORTED` and releases the memory that only this model holds. Later calls give `CLOSED`.
   * A process may exit without it.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    const reason = new Qwen3Error('CLOSED', 'The model was closed.')
    const streams = [...this.#active]
    for (const stream of streams) stream.cancel(reason, 'The model was closed while the request was under way.')
    await this.#loaded.native.close()
    await Promise.all(streams.map((stream) => stream.settled))
  }

  #withDefaults<T extends GenerateOptions>(options: T): T {
    return options.speculation === undefined ? { ...options, speculation: this.#speculation } : options
  }

  #requireOpen(): void {
    if (this.#closing) throw new Qwen3Error('CLOSED', 'This model was closed; load it again to use it.')
  }

  #start(
    plan: RequestPlan,
    prompt: string | Int32Array,
    encoding: { parseSpecial: boolean; literal?: ArrayLike<number> },
    signal: AbortSignal | undefined,
    entry: Qwen3['chat'] | Qwen3['generate'],
  ): ChatStream {
    for (const warning of plan.warnings) warnOnce(warning)
    const { native, chat } = this.#loaded
    const { tokenizer } = this
    const ids = typeof prompt === 'string' && prompt.length <= SHORT_TEXT ? tokenizer.encode(prompt, encoding) : prompt
    const stream = new TokenStream({
      assembler: chat.assembler(plan),
      control: {
        submit: (ids, receive, thinkingBudget) => {
          const request = requestOf(plan, ids, 'generate')
          if (thinkingBudget !== undefined) request.segments = { ...request.segments, budget: thinkingBudget }
          return submitRequest(native, request, receive)
        },
        cancel: (id) => native.cancel(id),
        endThinking: (id) => native.endThinking(id),
        setThinkingBudget: (id, tokens) => native.setThinkingBudget(id, tokens),
      },
      prompt:
        typeof ids === 'string' ? (cancelled) => tokenizer.encodeAsync(ids, { ...encoding, signal: cancelled }) : ids,
      signal,
      entry,
      onEnd: (ended) => this.#active.delete(ended),
    })
    return this.#track(stream)
  }

  #track<T extends ActiveStream>(stream: T): T {
    this.#active.add(stream)
    stream.settled.then(() => this.#active.delete(stream))
    return stream
  }

  async #query(
    mode: 'logits' | 'score',
    ids: ArrayLike<number>,
    options: { signal?: AbortSignal },
  ): Promise<Float32Array> {
    this.#requireOpen()
    checkSignalOptions(mode, options)
    const prompt = checkIds(ids, this.info.vocabSize)
    if (mode === 'score' && prompt.length < 2) {
      throw new Qwen3Error('INVALID_ARGUMENT', `ids: expected at least two token ids, received ${received(ids)}.`, {
        subject: 'ids',
      })
    }
    const { signal } = options
    if (signal?.aborted) throw abortedError(signal.reason)
    const { native, chat } = this.#loaded
    const request = requestOf(chat.planGenerate({}), prompt, mode)
    let cancelled: { reason: unknown } = { reason: undefined }
    const outcome = new Promise<Float32Array>((resolve, reject) => {
      const id = submitRequest(native, request, ({ finished }: NativeOutput) => {
        if (!finished) return
        signal?.removeEventListener('abort', onAbort)
        if (finished.error) {
          const { code, message, subject } = finished.error
          reject(new Qwen3Error(code as Qwen3Error['code'], message, { subject }))
        } else if (finished.values) resolve(finished.values)
        else reject(abortedError(cancelled.reason))
      })
      const cancel = (reason: unknown) => {
        cancelled = { reason }
        native.cancel(id)
      }
      const onAbort = () => cancel(signal!.reason)
      signal?.addEventListener('abort', onAbort, { once: true })
      const settled = Promise.resolve().then(() =>
        outcome.then(
          () => {},
          () => {},
        ),
      )
      this.#track({ cancel, settled })
    })
    return outcome
  }
}

function requestOf(plan: RequestPlan, prompt: Int32Array, mode: NativeRequest['mode']): NativeRequest {
  return { ...plan.native, prompt, cacheNamespace: 0n, mode }
}
