import type { ToolCall } from '../types'

/** What a piece of a tool call's text adds. */
export interface CallDelta {
  /** Given once, as soon as it is known. */
  name?: string
  argumentsDelta: string
}

/** Deeper arguments are no call of any real tool and would burden whoever walks them. */
const MAX_DEPTH = 100

type State = 'start' | 'key' | 'colon' | 'value' | 'afterValue' | 'end' | 'broken'

/**
 * Reads the text between `<tool_call>` and `</tool_call>`, `{"name": ..., "arguments": {...}}`, while it arrives. Each
 * character is looked at once, so the work is linear. It reports the name once and the source text of the arguments in
 * pieces as soon as the name is known; whether the whole is a call is decided at the end by a real JSON parser.
 */
export class ToolCallReader {
  private readonly source: string[] = []
  private readonly argumentsSource: string[] = []
  private state: State = 'start'
  private depth = 0
  private inString = false
  private escaped = false
  /** The current key or name while it is read, with its quotes. */
  private token: string[] = []
  private key = ''
  private readonly seen = new Set<string>()
  private name: string | undefined
  private unsent: string[] = []
  /** Arguments that are an object stream; arguments given as a JSON string are decoded at the end. */
  private streams = false
  private nameSent = false
  private tooDeep = false
  /** Inside the value of "arguments". */
  private capturing = false
  private endsAfter = false

  push(text: string): CallDelta | undefined {
    this.source.push(text)
    let from = this.capturing ? 0 : -1
    for (let i = 0; i < text.length; i++) {
      this.step(text[i]!)
      if (from < 0 && this.capturing) from = i
      else if (from >= 0 && !this.capturing) {
        // Strings and containers end with their last character, bare words before the one that follows.
        this.keep(text.slice(from, this.endsAfter ? i + 1 : i))
        from = -1
      }
    }
    if (from >= 0) this.keep(text.slice(from))
    return this.flush()
  }

  /** The finished call, or undefined when the text is none. `rest` is what the deltas still owe. */
  finish(id: string): { call: ToolCall; source: string; rest: CallDelta | undefined } | undefined {
    if (this.state !== 'end' || this.tooDeep) return undefined
    let value: unknown
    try {
      value = JSON.parse(this.source.join(''))
    } catch {
      return undefined
    }
    const { name, arguments: given } = value as { name?: unknown; arguments?: unknown }
    if (typeof name !== 'string' || name === '') return undefined
    let source = this.argumentsSource.join('')
    let args = given
    if (given === undefined || given === null) {
      args = {}
      source = '{}'
    } else if (typeof given === 'string') {
      source = given
      try {
        args = JSON.parse(given)
      } catch {
        return undefined
      }
    }
    if (typeof args !== 'object' || args === null || Array.isArray(args)) return undefined
    const owed = this.streams ? this.unsent.join('') : source
    const rest: CallDelta = { argumentsDelta: owed }
    if (!this.nameSent) rest.name = name
    const isOwing = rest.name !== undefined || owed !== ''
    return { call: { id, name, arguments: args as Record<string, unknown> }, source, rest: isOwing ? rest : undefined }
  }

  /** The whole text so far. */
  text(): string {
    return this.source.join('')
  }

  private keep(piece: string): void {
    if (piece === '') return
    if (this.argumentsSource.length === 0) this.streams = piece[0] === '{'
    this.argumentsSource.push(piece)
    this.unsent.push(piece)
  }

  private flush(): CallDelta | undefined {
    if (this.name === undefined || this.state === 'broken') return undefined
    const argumentsDelta = this.streams ? this.unsent.join('') : ''
    if (this.nameSent && argumentsDelta === '') return undefined
    if (this.streams) this.unsent = []
    const delta: CallDelta = this.nameSent ? { argumentsDelta } : { name: this.name, argumentsDelta }
    this.nameSent = true
    return delta
  }

  private step(char: string): void {
    switch (this.state) {
      case 'broken':
        return
      case 'start':
        if (char === '{') this.state = 'key'
        else if (!isSpace(char)) this.state = 'broken'
        this.depth = 1
        return
      case 'end':
        if (!isSpace(char)) this.state = 'broken'
        return
      case 'key':
        this.readKey(char)
        return
      case 'colon':
        if (char === ':') this.state = 'value'
        else if (!isSpace(char)) this.state = 'broken'
        this.token = []
        return
      case 'value':
        this.readValue(char)
        return
      case 'afterValue':
        this.afterValue(char)
        return
    }
  }

  private readKey(char: string): void {
    if (this.inString) {
      this.token.push(char)
      if (this.closesString(char)) {
        this.key = decode(this.token) ?? ''
        // A repeated key would make the streamed text and the parsed value differ.
        this.state = this.seen.has(this.key) ? 'broken' : 'colon'
        this.seen.add(this.key)
      }
    } else if (char === '"') {
      this.inString = true
      this.token = [char]
    } else if (char === '}' && this.seen.size === 0) {
      this.state = 'end'
    } else if (!isSpace(char)) {
      this.state = 'broken'
    }
  }

  private readValue(char: string): void {
    if (this.inString) {
      if (this.key === 'name' && this.depth === 1) this.token.push(char)
      if (this.closesString(char) && this.depth === 1) this.endValue(true)
      return
    }
    if (this.key === 'arguments' && !isSpace(char) && char !== ',' && char !== '}') this.capturing = true
    switch (char) {
      case '"':
        this.inString = true
        if (this.depth === 1) this.token = [char]
        return
      case '{':
      case '[':
        if (++this.depth > MAX_DEPTH) this.tooDeep = true
        return
      case '}':
      case ']':
        if (this.depth === 1) {
          this.endValue(false)
          this.afterValue(char)
        } else if (--this.depth === 1) {
          this.endValue(true)
        }
        return
      case ',':
        if (this.depth === 1) {
          this.endValue(false)
          this.afterValue(char)
        }
    }
  }

  private endValue(after: boolean): void {
    this.endsAfter = after
    this.capturing = false
    this.state = 'afterValue'
    if (this.key === 'name') {
      const name = decode(this.token)
      if (name === undefined || name === '') this.state = 'broken'
      else this.name = name
    }
  }

  private afterValue(char: string): void {
    if (char === ',') this.state = 'key'
    else if (char === '}') this.state = 'end'
    else if (!isSpace(char)) this.state = 'broken'
  }

  private closesString(char: string): boolean {
    if (this.escaped) this.escaped = false
    else if (char === '\\') this.escaped = true
    else if (char === '"') {
      this.inString = false
      return true
    }
    return false
  }
}

function decode(token: string[]): string | undefined {
  try {
    const value: unknown = JSON.parse(token.join(''))
    return typeof value === 'string' ? value : undefined
  } catch {
    return undefined
  }
}

function isSpace(char: string): boolean {
  return char === ' ' || char === '\n' || char === '\r' || char === '\t'
}
