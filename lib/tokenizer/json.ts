/**
 * Reads JSON files that nobody vouches for, byte by byte and in short steps: depth and size are bounded, a key that
 * stands twice is an error, and the two large parts of a tokenizer.json are left in place for the vocabulary's builder.
 */
import { open } from 'node:fs/promises'
import { Qwen3Error } from '../errors'
import { bad } from './bytes'

const MAX_DEPTH = 32
/** Bytes between two yields. */
const STEP = 1 << 15

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN = [0x7b, 0x5b] as const
const CLOSE = [0x7d, 0x5d] as const

export type JsonObject = Record<string, unknown>

/** A part of the file that was checked for balance only: it begins at `start`. */
export class JsonSpan {
  constructor(
    readonly start: number,
    readonly kind: 'object' | 'array',
  ) {}
}

/** Reads a file of at most `maxBytes`; undefined when there is none. */
export async function readFile(file: string, maxBytes: number): Promise<Buffer | undefined> {
  let handle: Awaited<ReturnType<typeof open>>
  try {
    handle = await open(file, 'r')
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new Qwen3Error('BAD_MODEL_FILE', `${file}: cannot be opened (${code})`, { subject: file, cause })
  }
  try {
    const stat = await handle.stat()
    if (!stat.isFile()) throw bad(file, 'is not a file')
    if (stat.size > maxBytes) throw bad(file, `is ${stat.size} bytes long; at most ${maxBytes} are read`)
    // One byte more than its size: a file that grows meanwhile is noticed instead of followed.
    const bytes = Buffer.allocUnsafe(stat.size + 1)
    let length = 0
    while (length < bytes.length) {
      const { bytesRead } = await handle.read(bytes, length, bytes.length - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    if (length !== stat.size) throw bad(file, 'changed while it was read')
    return bytes.subarray(0, length)
  } catch (cause) {
    if (cause instanceof Qwen3Error) throw cause
    throw new Qwen3Error('BAD_MODEL_FILE', `${file}: cannot be read`, { subject: file, cause })
  } finally {
    await handle.close()
  }
}

/** A cursor over the bytes of a JSON file. */
export class JsonReader {
  /** The next byte to read. */
  at = 0

  constructor(
    readonly bytes: Buffer,
    readonly file: string,
  ) {}

  /** Reads the whole file; containers at `lazy` paths ("model.vocab") become {@link JsonSpan}s. */
  *read(lazy: readonly string[] = []): Generator<undefined, unknown> {
    const value = yield* this.value('', 0, lazy)
    if (this.peek() !== undefined) this.fail('text after the end of the value')
    return value
  }

  fail(problem: string): never {
    throw bad(this.file, `is not valid JSON at byte ${this.at}: ${problem}`)
  }

  /** The next byte that is no white space, or undefined at the end. */
  peek(): number | undefined {
    for (; this.at < this.bytes.length; this.at++) {
      const byte = this.bytes[this.at]!
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte
    }
    return undefined
  }

  /** Consumes the given punctuation. */
  expect(byte: number): void {
    if (this.peek() !== byte) this.fail(`expected "${String.fromCharCode(byte)}"`)
    this.at++
  }

  /** After a member of a container: true when another one follows, false when the container was closed. */
  more(close: number): boolean {
    const byte = this.peek()
    if (byte !== close && byte !== 0x2c) this.fail(`expected "," or "${String.fromCharCode(close)}"`)
    this.at++
    return byte === 0x2c
  }

  /** Opens a container: true when it has a member. */
  enter(open: number, close: number): boolean {
    this.expect(open)
    if (this.peek() !== close) return true
    this.at++
    return false
  }

  private *value(path: string, depth: number, lazy: readonly string[]): Generator<undefined, unknown> {
    const first = this.peek()
    const kind = first === OPEN[0] ? 0 : first === OPEN[1] ? 1 : -1
    if (kind < 0) return this.scalar()
    if (lazy.includes(path)) {
      const span = new JsonSpan(this.at, kind === 0 ? 'object' : 'array')
      yield* this.skip(depth)
      return span
    }
    if (depth >= MAX_DEPTH) throw this.tooDeep()
    return kind === 0 ? yield* this.object(path, depth, lazy) : yield* this.array(path, depth, lazy)
  }

  private *object(path: string, depth: number, lazy: readonly string[]): Generator<undefined, JsonObject> {
    const object: JsonObject = Object.create(null)
    if (!this.enter(OPEN[0], CLOSE[0])) return object
    do {
      if (this.peek() !== QUOTE) this.fail('expected a key in double quotes')
      const key = this.string()
      if (key in object) this.fail(`the key ${JSON.stringify(key.slice(0, 100))} stands twice`)
      this.expect(0x3a)
      object[key] = yield* this.value(path === '' ? key : `${path}.${key}`, depth + 1, lazy)
    } while (this.more(CLOSE[0]))
    return object
  }

  private *array(path: string, depth: number, lazy: readonly string[]): Generator<undefined, unknown[]> {
    const array: unknown[] = []
    if (!this.enter(OPEN[1], CLOSE[1])) return array
    do {
      array.push(yield* this.value(`${path}[]`, depth + 1, lazy))
      if (array.length % 1024 === 0) yield
    } while (this.more(CLOSE[1]))
    return array
  }

  private tooDeep() {
    return bad(this.file, `is nested deeper than ${MAX_DEPTH} levels`)
  }

  /** Passes over a container; what is in it is checked when it is read. */
  private *skip(depth: number): Generator<undefined, void> {
    const { bytes } = this
    let pause = this.at + STEP
    const outside = depth
    do {
      const byte = bytes[this.at]
      if (byte === undefined) this.fail('the file ends inside a value')
      if (byte === QUOTE) {
        this.at = this.stringEnd()
        if (this.at >= pause) {
          pause = this.at + STEP
          yield
        }
      } else if (byte === OPEN[0] || byte === OPEN[1]) {
        if (++depth > MAX_DEPTH) throw this.tooDeep()
      } else if (byte === CLOSE[0] || byte === CLOSE[1]) {
        depth--
      }
      this.at++
    } while (depth > outside)
  }

  /** Index of the quote that ends the string which begins at the cursor. */
  private stringEnd(): number {
    const { bytes } = this
    for (let i = this.at + 1; i < bytes.length; i++) {
      if (bytes[i] === BACKSLASH) i++
      else if (bytes[i] === QUOTE) return i
    }
    this.fail('string without an end')
  }

  /** The string that begins at the cursor. */
  string(): string {
    const end = this.stringEnd()
    const text = this.bytes.toString('utf8', this.at, end + 1)
    try {
      const value = JSON.parse(text) as string
      this.at = end + 1
      return value
    } catch {
      this.fail('string with a bad escape or control character')
    }
  }

  /** The string, number, boolean or null that begins at the cursor. */
  scalar(): unknown {
    if (this.peek() === QUOTE) return this.string()
    let end = this.at
    while (end < this.bytes.length && end - this.at < 400 && /[\w.+-]/.test(String.fromCharCode(this.bytes[end]!)))
      end++
    try {
      const value: unknown = JSON.parse(this.bytes.toString('latin1', this.at, end))
      this.at = end
      return value
    } catch {
      this.fail('expected a value')
    }
  }
}

/** Runs steps to their end at once. */
export function finish<T>(steps: Generator<undefined, T>): T {
  for (;;) {
    const step = steps.next()
    if (step.done) return step.value
  }
}

/** Event-loop time that one slice of {@link finishInSlices} may take. */
const SLICE_MS = 0.7

/** Runs steps to their end, letting the event loop turn between slices of at most a millisecond. */
export async function finishInSlices<T>(steps: Generator<undefined, T>, check?: () => void): Promise<T> {
  for (;;) {
    check?.()
    const started = performance.now()
    do {
      const step = steps.next()
      if (step.done) return step.value
    } while (performance.now() - started < SLICE_MS)
    await new Promise((resolve) => setImmediate(resolve))
  }
}
