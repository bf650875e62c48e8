import { Qwen3Error, received } from '../errors'
import type { Json, JsonObject } from './json'

/** Typed access to the fields of a JSON file, with errors that name the file, the field, and what was expected. */
export class Fields {
  constructor(
    private readonly object: JsonObject,
    readonly path: string,
    private readonly prefix = '',
  ) {}

  /** The value, or undefined when it is absent or null (published configs write null for "not set"). */
  get(name: string): Json | undefined {
    return Object.hasOwn(this.object, name) ? (this.object[name] ?? undefined) : undefined
  }

  names(): string[] {
    return Object.keys(this.object)
  }

  /** A whole number within [low, high]. */
  integer(name: string, low: number, high: number, fallback?: number): number {
    const value = this.get(name) ?? fallback
    if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value
    throw this.wrong(name, `a whole number from ${low} to ${high}`, value)
  }

  /** A finite number within (low, high], or [low, high] when `closed`. */
  number(name: string, low: number, high: number, fallback?: number, closed = false): number {
    const value = this.get(name) ?? fallback
    if (typeof value === 'number' && (closed ? value >= low : value > low) && value <= high) return value
    throw this.wrong(name, `a number from ${low} to ${high}`, value)
  }

  boolean(name: string, fallback?: boolean): boolean {
    const value = this.get(name) ?? fallback
    if (typeof value === 'boolean') return value
    throw this.wrong(name, 'true or false', value)
  }

  string(name: string, fallback?: string): string {
    const value = this.get(name) ?? fallback
    if (typeof value === 'string') return value
    throw this.wrong(name, 'a string', value)
  }

  nested(name: string): Fields | undefined {
    const value = this.get(name)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || Array.isArray(value) || value === null) throw this.wrong(name, 'an object', value)
    return new Fields(value, this.path, `${this.prefix}${name}.`)
  }

  wrong(name: string, expected: string, value: unknown): Qwen3Error {
    const got = value === undefined ? 'nothing' : received(value)
    return new Qwen3Error(
      'BAD_MODEL_FILE',
      `${this.path}: ${this.prefix}${name}: expected ${expected}, received ${got}.`,
      {
        subject: this.prefix + name,
      },
    )
  }

  unsupported(name: string, why: string): Qwen3Error {
    return new Qwen3Error('UNSUPPORTED', `${this.path}: ${this.prefix}${name}: ${why}`, { subject: this.prefix + name })
  }
}
