/** Events between the engine and one reader. What the reader has not taken yet is merged, so a slow one gets fewer, larger events. */
import type { ChatEvent } from './types'

type TextEvent = Extract<ChatEvent, { type: 'thinking' | 'text' }>
/** Text that can still grow: its ids stay in pieces until somebody reads it, so that merging costs the same for every token. */
type OpenText = { type: TextEvent['type']; text: string; ids: Int32Array[] }
type Open = OpenText | Exclude<ChatEvent, TextEvent>

type Reader = { resolve(result: IteratorResult<ChatEvent>): void; reject(error: unknown): void }

const DONE: IteratorResult<ChatEvent> = { done: true, value: undefined }

export class EventBuffer {
  private readonly events: Open[] = []
  /** Calls of next() that wait; then `events` is empty. */
  private readonly readers: Reader[] = []
  private end: { error?: unknown } | undefined

  push(events: readonly ChatEvent[]): void {
    for (const event of events) this.append(event)
    while (this.readers.length > 0 && this.events.length > 0) {
      this.readers.shift()!.resolve({ done: false, value: close(this.events.shift()!) })
    }
  }

  /** No more events. With an error, the reader gets it once, after the events before it. */
  finish(end: { error?: unknown } = {}): void {
    this.end = end
    for (const reader of this.readers.splice(0)) this.settle(reader)
  }

  next(): Promise<IteratorResult<ChatEvent>> {
    const event = this.events.shift()
    if (event) return Promise.resolve({ done: false, value: close(event) })
    return new Promise((resolve, reject) => {
      if (this.end) this.settle({ resolve, reject })
      else this.readers.push({ resolve, reject })
    })
  }

  private settle(reader: Reader): void {
    const error = this.end?.error
    this.end = {}
    if (error === undefined) reader.resolve(DONE)
    else reader.reject(error)
  }

  private append(event: ChatEvent): void {
    const last = this.events.at(-1)
    if (isText(event)) {
      if (last && isText(last) && last.type === event.type) {
        last.text += event.text
        last.ids.push(event.ids)
      } else {
        this.events.push({ type: event.type, text: event.text, ids: [event.ids] })
      }
    } else if (event.type === 'toolCallDelta' && last?.type === 'toolCallDelta' && last.index === event.index) {
      last.argumentsDelta += event.argumentsDelta
    } else {
      this.events.push({ ...event })
    }
  }
}

function isText<T extends Open | ChatEvent>(event: T): event is Extract<T, { type: 'thinking' | 'text' }> {
  return event.type === 'thinking' || event.type === 'text'
}

function close(event: Open): ChatEvent {
  if (!isText(event)) return event
  return { type: event.type, text: event.text, ids: concatenate(event.ids) }
}

function concatenate(parts: Int32Array[]): Int32Array {
  if (parts.length === 1) return parts[0]!
  const all = new Int32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
