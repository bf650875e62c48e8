/** The stream that chat() and generate() return. Its contract is in docs: starts at once, consumed or not; never thenable. */
import { abortedError, Qwen3Error } from './errors'
import type { NativeOutput } from './native'
import { checkThinkingBudget } from './options'
import { EventBuffer } from './stream-buffer'
import type { AbortedError, ChatEvent, ChatResult, ChatStream } from './types'

/** Turns what the engine produced into events and the result; lib/chat's EventAssembler. */
export interface Assembler {
  push(output: NativeOutput): ChatEvent[]
  partial(): ChatResult
  readonly result: ChatResult | undefined
}

/** The engine's side of one request, by the id that submit returned. */
export interface RequestControl {
  /** `thinkingBudget` replaces the one the request was planned with; -1 means none. */
  submit(prompt: Int32Array, receive: (output: NativeOutput) => void, thinkingBudget?: number): number
  cancel(id: number): void
  endThinking(id: number): void
  setThinkingBudget(id: number, tokens: number): void
}

export interface StreamSource {
  assembler: Assembler
  control: RequestControl
  /** The prompt's ids, or, for a long text, a function that encodes it in slices until `signal` aborts. */
  prompt: Int32Array | ((signal: AbortSignal) => Promise<Int32Array>)
  signal?: AbortSignal
  /** The public function that was called: stacks of later errors begin at its caller. */
  // biome-ignore lint/complexity/noBannedTypes: Error.captureStackTrace takes any function
  entry: Function
  onEnd(stream: ActiveStream): void
}

/** How the model sees a stream that is under way. */
export interface ActiveStream {
  /** Ends the stream with ABORTED. */
  cancel(reason: unknown, message: string): void
  /** Resolves when nothing of the request is left in the engine. Never rejects. */
  readonly settled: Promise<void>
}

export class TokenStream implements ChatStream, ActiveStream {
  readonly #source: StreamSource
  readonly #buffer = new EventBuffer()
  readonly #promise: Promise<ChatResult>
  readonly #callSite: { stack?: string } = {}
  readonly settled: Promise<void>
  #resolve!: (result: ChatResult) => void
  #reject!: (error: unknown) => void
  #id: number | undefined
  /** Ends the encoding of a long prompt. */
  #encoding: AbortController | undefined
  #ended = false
  #iterated = false
  #cancelled: { reason: unknown; message: string } | undefined
  /** Steering that came before the request was submitted: the last budget, and whether thinking shall end. */
  #early: { thinkingBudget?: number; endThinking?: boolean } = {}
  readonly #onAbort = () => this.cancel(this.#source.signal!.reason, 'The request was aborted by its signal.')

  constructor(source: StreamSource) {
    this.#source = source
    Error.captureStackTrace(this.#callSite, source.entry)
    this.#promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // Whoever wants the outcome calls result(); a stream that nobody looks at must not end the process.
    this.settled = this.#promise.then(
      () => {},
      () => {},
    )
    this.#start()
  }

  result(): Promise<ChatResult> {
    return this.#promise
  }

  endThinking(): void {
    if (this.#ended) return
    if (this.#id === undefined) this.#early.endThinking = true
    else this.#source.control.endThinking(this.#id)
  }

  setThinkingBudget(tokens: number): void {
    checkThinkingBudget(tokens)
    const native = tokens === Number.POSITIVE_INFINITY ? -1 : tokens
    if (this.#ended) return
    if (this.#id === undefined) this.#early.thinkingBudget = native
    else this.#source.control.setThinkingBudget(this.#id, native)
  }

  abort(reason: unknown = new DOMException('This operation was aborted', 'AbortError')): void {
    this.cancel(reason, 'The request was aborted.')
  }

  cancel(reason: unknown, message: string): void {
    if (this.#ended || this.#cancelled) return
    this.#cancelled = { reason, message }
    this.#encoding?.abort(reason)
    // In the engine already: it confirms within one step, so that `partial` and the counts are exact.
    if (this.#id !== undefined) this.#source.control.cancel(this.#id)
    else this.#fail(this.#abortError())
  }

  [Symbol.asyncIterator](): AsyncIterator<ChatEvent> {
    if (this.#iterated) {
      throw new Qwen3Error(
        'STREAM_CONSUMED',
        'This stream has an iterator already. Iterate once, or use result(), which can be called any number of times.',
      )
    }
    this.#iterated = true
    const leave = async (): Promise<IteratorResult<ChatEvent>> => {
      this.cancel(undefined, 'The loop over the stream was left before its end.')
      await this.settled
      return { done: true, value: undefined }
    }
    return { next: () => this.#buffer.next(), return: leave }
  }

  #start(): void {
    const { signal, prompt } = this.#source
    if (signal?.aborted) {
      this.#onAbort()
      return
    }
    signal?.addEventListener('abort', this.#onAbort, { once: true })
    if (typeof prompt !== 'function') {
      // Not within the call: what the caller does to the stream right after it holds from the first token on.
      queueMicrotask(() => this.#submit(prompt))
      return
    }
    this.#encoding = new AbortController()
    prompt(this.#encoding.signal).then(
      (ids) => this.#submit(ids),
      (error: unknown) => this.#fail(error),
    )
  }

  #submit(prompt: Int32Array): void {
    if (this.#ended) return
    try {
      const { thinkingBudget, endThinking } = this.#early
      this.#id = this.#source.control.submit(prompt, (output) => this.#receive(output), thinkingBudget)
      if (endThinking) this.#source.control.endThinking(this.#id)
    } catch (error) {
      this.#fail(error)
    }
  }

  #receive(output: NativeOutput): void {
    if (this.#ended) return
    const { assembler, control } = this.#source
    try {
      this.#buffer.push(assembler.push(output))
    } catch (error) {
      control.cancel(output.id)
      this.#fail(error)
      return
    }
    const { finished } = output
    if (!finished) return
    if (finished.error) {
      const { code, message, subject } = finished.error
      this.#fail(new Qwen3Error(code as Qwen3Error['code'], message, { subject }))
    } else if (finished.reason === 'aborted') {
      this.#fail(this.#abortError())
    } else {
      this.#succeed(assembler.result)
    }
  }

  #succeed(result: ChatResult | undefined): void {
    if (!result) {
      this.#fail(new Qwen3Error('INTERNAL', 'The request ended without a result.'))
      return
    }
    this.#end()
    this.#buffer.finish()
    this.#resolve(result)
  }

  #fail(cause: unknown): void {
    if (this.#ended) return
    this.#end()
    const error =
      cause instanceof Qwen3Error
        ? cause
        : new Qwen3Error('INTERNAL', `A stream failed: ${(cause as Error)?.message ?? cause}`, { cause })
    const frames = this.#callSite.stack?.replace(/^.*\n/, '')
    if (frames) error.stack = `${error.name}: ${error.message}\n${frames}`
    // Whoever left the loop has asked for the end and gets no error from it.
    this.#buffer.finish({ error })
    this.#reject(error)
  }

  #end(): void {
    this.#ended = true
    this.#source.signal?.removeEventListener('abort', this.#onAbort)
    this.#source.onEnd(this)
  }

  #abortError(): AbortedError {
    const { reason, message } = this.#cancelled ?? { reason: undefined, message: 'The model was closed.' }
    return Object.assign(abortedError(reason, message), { partial: this.#source.assembler.partial() }) as AbortedError
  }
}
