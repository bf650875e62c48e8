import { Qwen3Error } from '../errors'
import { Slices } from './slices'

/** A parsed JSON value; objects have no prototype, so that no key can reach one. */
export type Json = null | boolean | number | string | Json[] | JsonObject
export interface JsonObject {
  [key: string]: Json
}

export interface JsonLimits {
  /** Nested arrays and objects; real model files need fewer than ten. */
  maxDepth?: number
  /** Values and keys in total: bounds memory for a file of many tiny values. */
  maxValues?: number
}

interface Frame {
  container: Json[] | JsonObject
  key: string | undefined
}

/**
 * Parses JSON from a file that nobody vouches for: no recursion, depth and count are bounded, duplicate keys are an error
 * (a second key would silently replace the first), and `__proto__` is a key like any other. Yields to the event loop, so
 * that a large index does not block it. Throws `BAD_MODEL_FILE` with `subject` as its subject.
 */
export async function parseJson(text: string, subject: string, limits: JsonLimits = {}): Promise<Json> {
  const scanner = new JsonScanner(text, subject, limits)
  const slices = new Slices()
  while (!scanner.step()) if (slices.due()) await slices.pause()
  return scanner.root
}

/** {@link parseJson} that insists on an object. */
export async function parseJsonObject(text: string, subject: string, limits?: JsonLimits): Promise<JsonObject> {
  const value = await parseJson(text, subject, limits)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Qwen3Error('BAD_MODEL_FILE', `${subject}: expected a JSON object.`, { subject })
  }
  return value
}

/** An iterative JSON reader: each step consumes one value or closes one container. */
class JsonScanner {
  root: Json = null
  private position = 0
  private values = 0
  private readonly stack: Frame[] = []
  private readonly maxDepth: number
  private readonly maxValues: number

  constructor(
    private readonly text: string,
    private readonly subject: string,
    limits: JsonLimits,
  ) {
    this.maxDepth = limits.maxDepth ?? 32
    this.maxValues = limits.maxValues ?? 4_000_000
  }

  /** Returns true when the whole text is read. */
  step(): boolean {
    const frame = this.stack[this.stack.length - 1]
    if (frame === undefined) {
      this.place(this.value())
    } else if (Array.isArray(frame.container)) {
      if (!this.closes(0x5d, frame.container.length > 0)) this.place(this.value())
    } else if (!this.closes(0x7d, frame.key !== undefined)) {
      this.readKey(frame)
      this.place(this.value())
    }
    if (this.stack.length > 0) return false
    this.skipSpace()
    if (this.position < this.text.length) this.fail('text after the end of the JSON value')
    return true
  }

  /** At the end of a container: pops it. Otherwise consumes the comma that must stand between two members. */
  private closes(bracket: number, notFirst: boolean): boolean {
    this.skipSpace()
    const code = this.text.charCodeAt(this.position)
    if (code === bracket) {
      this.position++
      this.stack.pop()
      return true
    }
    if (notFirst) {
      if (code !== 0x2c) this.fail('expected "," or a closing bracket')
      this.position++
    }
    return false
  }

  private readKey(frame: Frame): void {
    this.skipSpace()
    if (this.text.charCodeAt(this.position) !== 0x22) this.fail('expected a key in double quotes')
    const key = this.string()
    if (Object.hasOwn(frame.container, key)) this.fail(`duplicate key ${JSON.stringify(key.slice(0, 200))}`)
    this.skipSpace()
    if (this.text.charCodeAt(this.position) !== 0x3a) this.fail('expected ":" after a key')
    this.position++
    frame.key = key
  }

  private place(value: Json): void {
    if (++this.values > this.maxValues) this.fail(`more than ${this.maxValues} values`)
    const frame = this.stack[this.stack.length - 1]
    if (frame === undefined) this.root = value
    else if (Array.isArray(frame.container)) frame.container.push(value)
    else frame.container[frame.key!] = value
    if (typeof value === 'object' && value !== null) {
      if (this.stack.length >= this.maxDepth) this.fail(`nested deeper than ${this.maxDepth} levels`)
      this.stack.push({ container: value, key: undefined })
    }
  }

  /** Reads a scalar, or opens a container (its members follow in later steps). */
  private value(): Json {
    this.skipSpace()
    const code = this.text.charCodeAt(this.position)
    if (code === 0x22) return this.string()
    if (code === 0x7b || code === 0x5b) {
      this.position++
      return code === 0x5b ? [] : (Object.create(null) as JsonObject)
    }
    if (this.word('true')) return true
    if (this.word('false')) return false
    if (this.word('null')) return null
    return this.number()
  }

  private word(word: string): boolean {
    if (!this.text.startsWith(word, this.position)) return false
    this.position += word.length
    return true
  }

  private number(): number {
    const pattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
    pattern.lastIndex = this.position
    const match = pattern.exec(this.text)
    if (match === null || match[0].length > 400) this.fail('expected a JSON value')
    this.position += match[0].length
    const value = Number(match[0])
    if (!Number.isFinite(value)) this.fail(`number out of range: ${match[0].slice(0, 40)}`)
    return value
  }

  private string(): string {
    const start = this.position
    let end = start
    do {
      end = this.text.indexOf('"', end + 1)
      if (end < 0) this.fail('string without an end')
    } while (this.isEscaped(end))
    this.position = end + 1
    const raw = this.text.slice(start + 1, end)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids exactly these in strings
    if (!/[\\\u0000-\u001f]/.test(raw)) return raw
    try {
      return JSON.parse(`"${raw}"`) as string
    } catch {
      this.fail('string with a bad escape or control character')
    }
  }

  /** An odd number of backslashes before the quote. Each backslash is visited once more at most, so this stays linear. */
  private isEscaped(quote: number): boolean {
    let at = quote - 1
    while (this.text.charCodeAt(at) === 0x5c) at--
    return (quote - 1 - at) % 2 === 1
  }

  private skipSpace(): void {
    for (;;) {
      const code = this.text.charCodeAt(this.position)
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return
      this.position++
    }
  }

  private fail(problem: string): never {
    throw new Qwen3Error(
      'BAD_MODEL_FILE',
      `${this.subject}: not valid JSON at character ${this.position}: ${problem}.`,
      {
        subject: this.subject,
      },
    )
  }
}
