import { randomBytes } from 'node:crypto'
import { TextDecoder } from 'node:util'
import type { NativeOutput, NativeUsage } from '../native'
import type { ChatEvent, ChatMessage, ChatResult, ThinkingStop, TokenLogprob, ToolCall, Usage } from '../types'
import type { RequestPlan } from './plan'
import { type ChatTokenizer, controlIds, TokenBytes } from './tokens'
import { ToolCallReader } from './tool-call'

// NativeSegment as plain numbers: a const enum of another file cannot be read under isolatedModules.
const THINK = 1
const CLOSING = 2
const TOOL_CALL = 4
const FORCED = 0x80

type Kind = 'thinking' | 'text' | 'toolCall'
const NO_IDS = new Int32Array(0)

/**
 * Turns the tokens of one request, each tagged with its segment, into events and the result. Segments come from the
 * engine, by id; nothing here guesses from text where thinking ended, and the texts of tags never appear.
 *
 * Around thinking, line breaks are the template's and not the text's: they are dropped on both ends of the thinking, before
 * the answer, and one before a tool call, exactly as the template writes them again when the message returns in the next
 * turn. The same rules run over any split of the tokens, so streamed text equals unstreamed text.
 */
export class EventAssembler {
  private readonly bytes: TokenBytes
  private readonly ids: ReturnType<typeof controlIds>
  private readonly controls: ReadonlySet<number>
  private readonly ends: ReadonlySet<number>
  private readonly thinking = new Channel('thinking', true)
  private readonly answer: Channel
  private callDecoder = utf8()
  private reader: ToolCallReader | undefined
  private readonly calls: { call: ToolCall; source: string }[] = []
  private callIndex = 0
  private callId = ''
  private readonly allIds: number[] = []
  private readonly logprobs: TokenLogprob[] = []
  private thought = false
  private thinkClosed = false
  private events: ChatEvent[] = []
  private eventIds: number[] = []
  private finished: NativeOutput['finished']
  private final: ChatResult | undefined

  constructor(
    private readonly plan: RequestPlan,
    tokenizer: ChatTokenizer,
    /** `bytes`: a cache that the requests of one model share; it has the placeholder then. */
    options: { placeholder?: string; bytes?: TokenBytes } = {},
  ) {
    this.bytes = options.bytes ?? new TokenBytes(tokenizer, options.placeholder)
    this.ids = controlIds(tokenizer)
    this.answer = new Channel('text', !plan.raw)
    const added = tokenizer.addedTokens()
    this.controls = new Set(added.filter((token) => token.special || !plan.raw).map(({ id }) => id))
    this.ends = new Set(plan.native.eos)
  }

  /** The result, once the request has finished with stop or length. */
  get result(): ChatResult | undefined {
    return this.final
  }

  /**
   * Events of one output, merged: one event for each stretch of a kind. After the last output comes `done`; not when the
   * engine reports `aborted` or `error`, whose errors are the caller's to make, with {@link partial}.
   */
  push(output: NativeOutput): ChatEvent[] {
    this.events = []
    const { ids, segments, finished } = output
    const kept = finished ? this.lengthsAfterTrim(ids, finished.trimBytes) : undefined
    for (let i = 0; i < ids.length; i++) this.token(output, i, ids[i]!, segments[i]!, kept?.[i])
    if (finished) {
      this.finished = finished
      this.end()
      if (finished.reason === 'stop' || finished.reason === 'length') {
        this.final = this.partial()
        this.append({ type: 'done', result: this.final })
      }
    }
    this.sealIds()
    return this.events
  }

  /** The result so far; what `partial` of an ABORTED error holds. */
  partial(): ChatResult {
    const { finished, plan } = this
    const thinking = this.thinking.text()
    const text = this.answer.text()
    const toolCalls = this.calls.map(({ call }) => call)
    const stopped = finished?.reason === 'stop'
    const result: ChatResult = {
      thinking,
      text,
      toolCalls,
      ids: new Int32Array(this.allIds),
      message: this.message(thinking, text),
      seed: plan.seed,
      stopSequence: finished && finished.stopIndex >= 0 ? (plan.stop[finished.stopIndex] ?? null) : null,
      finishReason: !stopped ? 'length' : toolCalls.length > 0 ? 'toolCalls' : 'stop',
      thinkingStop: this.thinkingStop(),
      usage: usageOf(finished?.usage),
    }
    if (plan.logprobs) result.logprobs = [...this.logprobs]
    return result
  }

  private token(output: NativeOutput, at: number, id: number, tag: number, kept: number | undefined): void {
    this.allIds.push(id)
    const segment = tag & ~FORCED
    const forced = (tag & FORCED) !== 0
    if (segment === THINK || segment === CLOSING) this.thought = true
    const kind = this.kindOf(segment, forced, id)
    const { bytes, text } = this.bytes.token(id)
    const whole = kept === undefined || kept === bytes.length
    const visible = whole ? bytes : bytes.subarray(0, kept)
    if (kind === 'toolCall') this.callToken(id, visible)
    else if (kind !== undefined) this.textToken(kind, id, visible, whole ? text : undefined)
    if (!this.plan.logprobs) return
    const isText = visible.length > 0 && !this.controls.has(id) && !this.ends.has(id)
    this.addLogprob(output, at, id, isText ? (kind ?? 'control') : 'control')
  }

  /** `text`: that of `visible`, where its characters are whole. */
  private textToken(kind: 'thinking' | 'text', id: number, visible: Uint8Array, text: string | undefined): void {
    if (kind === 'text' && this.thinking.open) this.leaveThinking()
    if (this.reader !== undefined) this.closeCall()
    if (visible.length === 0 || this.controls.has(id) || this.ends.has(id)) return
    const channel = kind === 'text' ? this.answer : this.thinking
    this.emit(channel, channel.push(visible, id, text))
  }

  /** What a token belongs to; undefined: nothing that is shown. */
  private kindOf(segment: number, forced: boolean, id: number): Kind | undefined {
    if (segment === THINK) return 'thinking'
    if (segment === CLOSING) {
      if (id === this.ids.thinkClose) this.thinkClosed = true
      // The wrap-up sentence is part of what the model has thought; the blank line after </think> is not.
      return forced && !this.thinkClosed ? 'thinking' : undefined
    }
    return segment === TOOL_CALL ? 'toolCall' : 'text'
  }

  private emit(channel: Channel, text: string): void {
    if (text === '') return
    const ids = channel.takeIds()
    const last = this.events.at(-1)
    if (last?.type === channel.kind) last.text += text
    else {
      this.sealIds()
      this.events.push({ type: channel.kind, text, ids: NO_IDS })
    }
    for (const id of ids) this.eventIds.push(id)
  }

  /** Gives the last text event the ids gathered for it. */
  private sealIds(): void {
    const last = this.events.at(-1)
    if (last?.type === 'thinking' || last?.type === 'text') last.ids = new Int32Array(this.eventIds)
    if (this.eventIds.length > 0) this.eventIds = []
  }

  private append(event: ChatEvent): void {
    this.sealIds()
    this.events.push(event)
  }

  private leaveThinking(): void {
    if (this.thinking.open) this.emit(this.thinking, this.thinking.end('drop'))
  }

  private callToken(id: number, bytes: Uint8Array): void {
    if (id === this.ids.toolOpen) {
      this.leaveThinking()
      this.closeCall()
      this.emit(this.answer, this.answer.end('dropOne'))
      this.reader = new ToolCallReader()
      this.callDecoder = utf8()
      this.callId = `call_${randomBytes(12).toString('hex')}`
      return
    }
    if (id === this.ids.toolClose) {
      this.closeCall()
      return
    }
    if (this.ends.has(id) || this.reader === undefined) return
    this.callText(this.callDecoder.decode(bytes, { stream: true }))
  }

  private callText(text: string): void {
    const delta = text === '' ? undefined : this.reader!.push(text)
    if (delta === undefined) return
    const last = this.events.at(-1)
    if (delta.name === undefined && last?.type === 'toolCallDelta' && last.index === this.callIndex) {
      last.argumentsDelta += delta.argumentsDelta
      return
    }
    const { name, argumentsDelta } = delta
    this.append({
      type: 'toolCallDelta',
      index: this.callIndex,
      ...(name !== undefined && { id: this.callId, name }),
      argumentsDelta,
    })
  }

  /** Ends the open call: a `toolCall` event, or its text when it is none. An index is used once, also by a failed call. */
  private closeCall(): void {
    const { reader } = this
    if (reader === undefined) return
    this.callText(this.callDecoder.decode())
    const finished = reader.finish(this.callId)
    this.reader = undefined
    const index = this.callIndex++
    if (finished === undefined) {
      this.answer.resume()
      this.emit(this.answer, this.answer.add(reader.text()))
      this.emit(this.answer, this.answer.end('dropOne'))
      return
    }
    const { call, source, rest } = finished
    if (rest !== undefined) {
      this.append({
        type: 'toolCallDelta',
        index,
        ...(rest.name !== undefined && { id: this.callId, name: rest.name }),
        argumentsDelta: rest.argumentsDelta,
      })
    }
    this.calls.push({ call, source })
    this.append({ type: 'toolCall', index, call })
    this.answer.resume()
  }

  private end(): void {
    this.closeCall()
    this.leaveThinking()
    this.emit(this.answer, this.answer.end('keep'))
  }

  /** Bytes of each token that stay when `trim` bytes are cut off the end. */
  private lengthsAfterTrim(ids: ArrayLike<number>, trim: number): number[] {
    const kept: number[] = new Array(ids.length)
    for (let i = ids.length - 1; i >= 0; i--) {
      const { length } = this.bytes.of(ids[i]!)
      const cut = Math.min(trim, length)
      trim -= cut
      kept[i] = length - cut
    }
    return kept
  }

  private addLogprob(output: NativeOutput, at: number, id: number, segment: TokenLogprob['segment']): void {
    const given = output.logprobs
    if (given === undefined) return
    const top: TokenLogprob['top'] = []
    for (let k = at * given.topCount; k < (at + 1) * given.topCount; k++) {
      const other = given.topIds[k]!
      if (other >= 0) top.push({ id: other, token: textOf(this.bytes.of(other)), logprob: given.topLogprobs[k]! })
    }
    this.logprobs.push({ id, token: textOf(this.bytes.of(id)), logprob: given.logprob[at]!, segment, top })
  }

  private message(thinking: string, text: string): ChatMessage {
    const message: ChatMessage = { role: 'assistant', content: text }
    if (thinking !== '') message.reasoning_content = thinking
    if (this.calls.length > 0) {
      // The arguments as the model wrote them, so that the next prompt repeats its tokens.
      message.tool_calls = this.calls.map(({ call, source }) => ({
        id: call.id,
        type: 'function',
        function: { name: call.name, arguments: source },
      }))
    }
    return message
  }

  private thinkingStop(): ThinkingStop | null {
    const stop = this.finished?.thinkingStop
    if (stop === undefined) return this.thought ? (this.thinkClosed ? 'natural' : 'unfinished') : null
    return stop === 'none' ? null : stop
  }
}

/** Text of one kind: decodes bytes as they come and holds line breaks back until it is known whether they count. */
class Channel {
  open = false
  private decoder = utf8()
  /** The decoder may hold the beginning of a character. */
  private inCharacter = false
  private leading = true
  private resumed = false
  private held = ''
  private readonly pieces: string[] = []
  private pendingIds: number[] = []

  constructor(
    readonly kind: 'thinking' | 'text',
    /** Whether line breaks at the ends are dropped. */
    private readonly trims: boolean,
  ) {}

  /** `text`: that of `bytes`, where its characters are whole: most tokens need no decoder. */
  push(bytes: Uint8Array, id: number, text: string | undefined): string {
    this.open = true
    this.pendingIds.push(id)
    if (text !== undefined && !this.inCharacter) return this.add(text)
    // After whole characters nothing is held; else it is not worth finding out.
    this.inCharacter = text === undefined
    return this.add(this.decoder.decode(bytes, { stream: true }))
  }

  /** Text that is ready to be shown. */
  add(text: string): string {
    this.open = true
    if (!this.trims) return this.show(text)
    let start = 0
    if (this.leading) while (text[start] === '\n') start++
    if (start === text.length) return ''
    this.leading = false
    if (this.resumed && this.pieces.length > 0) this.held = '\n'
    this.resumed = false
    let end = text.length
    while (end > start && text[end - 1] === '\n') end--
    if (end === start) {
      this.held += text.slice(start)
      return ''
    }
    const ready = this.held + text.slice(start, end)
    this.held = text.slice(end)
    return this.show(ready)
  }

  /** Ends a stretch. Held line breaks are kept, dropped, or dropped but for all but one. */
  end(breaks: 'keep' | 'drop' | 'dropOne'): string {
    const rest = this.add(this.inCharacter ? this.decoder.decode() : '')
    if (this.inCharacter) this.decoder = utf8()
    this.inCharacter = false
    this.open = false
    const { held } = this
    this.held = ''
    if (breaks === 'drop') return rest
    return rest + this.show(breaks === 'keep' ? held : held.slice(1))
  }

  /** After a tool call: line breaks before more text are the template's; one stands for the call that was there. */
  resume(): void {
    this.leading = this.trims
    this.resumed = this.trims
  }

  takeIds(): number[] {
    const ids = this.pendingIds
    this.pendingIds = []
    return ids
  }

  text(): string {
    return this.pieces.join('')
  }

  private show(text: string): string {
    if (text !== '') this.pieces.push(text)
    return text
  }
}

function utf8(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true })
}

function textOf(bytes: Uint8Array): string {
  return utf8().decode(bytes)
}

function usageOf(usage: NativeUsage | undefined): Usage {
  const of = (key: keyof NativeUsage) => usage?.[key] ?? 0
  const parts = {
    thinkingTokens: of('thinkingTokens'),
    answerTokens: of('answerTokens'),
    toolCallTokens: of('toolCallTokens'),
    forcedTokens: of('forcedTokens'),
  }
  return {
    promptTokens: of('promptTokens'),
    cachedTokens: of('cachedTokens'),
    ...parts,
    completionTokens: parts.thinkingTokens + parts.answerTokens + parts.toolCallTokens + parts.forcedTokens,
    draftTokens: of('draftTokens'),
    acceptedTokens: of('acceptedTokens'),
    timings: {
      queueMs: of('queueMs'),
      prefillMs: of('prefillMs'),
      firstTokenMs: of('firstTokenMs'),
      decodeMs: of('decodeMs'),
      rescaleMs: of('rescaleMs'),
    },
  }
}
