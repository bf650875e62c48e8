import { Qwen3Error, received } from '../errors'

/** Size of plain data: what rendering it may cost depends on it. */
export interface Size {
  values: number
  chars: number
}

const MAX_DEPTH = 100
const MAX_VALUES = 1_000_000

/**
 * Copies data into objects without prototypes that hold nothing but JSON: getters run here and only here, functions,
 * symbols and class instances never reach a template, `__proto__` is a key like any other, and what is nested too deeply
 * or contains itself is an `INVALID_ARGUMENT` with its place.
 */
export function plainJson(value: unknown, subject: string, size: Size, depth = 0): unknown {
  if (++size.values > MAX_VALUES) throw invalid(subject, `at most ${MAX_VALUES} values`, 'more')
  switch (typeof value) {
    case 'string':
      size.chars += value.length
      return value
    case 'boolean':
      return value
    case 'number':
      if (Number.isFinite(value)) return value
      throw invalid(subject, 'a finite number', String(value))
    case 'object':
      break
    default:
      throw invalid(subject, 'JSON data', received(value))
  }
  if (value === null) return null
  if (depth >= MAX_DEPTH) throw invalid(subject, `at most ${MAX_DEPTH} levels of nesting`, 'more')
  if (Array.isArray(value)) return Array.from(value, (item, i) => plainJson(item, `${subject}[${i}]`, size, depth + 1))
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null)
    throw invalid(subject, 'JSON data', 'an instance of a class')
  const copy: Record<string, unknown> = Object.create(null)
  for (const key of Object.keys(value)) {
    const item = (value as Record<string, unknown>)[key]
    if (item === undefined) continue
    size.chars += key.length
    copy[key] = plainJson(item, `${subject}.${key.slice(0, 60)}`, size, depth + 1)
  }
  return copy
}

export function invalid(subject: string, expected: string, got: string): Qwen3Error {
  return new Qwen3Error('INVALID_ARGUMENT', `${subject}: expected ${expected}, received ${got}.`, { subject })
}
