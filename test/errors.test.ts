import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { abortedError, errorCodes, Qwen3Error, type Qwen3ErrorCode, received, throwIfAborted } from '../lib/errors'

const root = join(__dirname, '..')
const codes = Object.keys(errorCodes) as Qwen3ErrorCode[]

function sources(folder: string, pattern: RegExp): string {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => pattern.test(file))
    .map((file) => readFileSync(join(root, folder, file), 'utf8'))
    .join('\n')
}

describe('the registry of codes', () => {
  test('docs/errors.md has exactly these codes, with their meaning', () => {
    const sections = readFileSync(join(root, 'docs', 'errors.md'), 'utf8')
      .split(/^### /m)
      .slice(1)
    const documented = Object.fromEntries(
      sections.map((section) => [section.split('\n', 1)[0]!, section.split('\n')[2]]),
    )
    expect(documented).toEqual(errorCodes)
  })

  test('every code is thrown somewhere, and no other is', () => {
    const typescript = sources('lib', /\.ts$/)
    const native = sources('native', /\.(cc|h)$/)
    const thrown = new Set(
      [...typescript.matchAll(/(?:new Qwen3Error\(|fail\(|code: )\s*'([A-Z_]+)'/g)].map((match) => match[1]!),
    )
    for (const code of thrown) expect(codes).toContain(code)
    for (const code of codes) {
      const constant = `k${code.toLowerCase().replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase())}`
      expect({ code, found: thrown.has(code) || native.includes(`ErrorCode::${constant},`) }).toEqual({
        code,
        found: true,
      })
    }
  })

  test('the codes of the native side are these', () => {
    const status = readFileSync(join(root, 'native', 'core', 'status.cc'), 'utf8')
    const named = [...status.matchAll(/"([A-Z]+(?:_[A-Z]+)*)"/g)].map((match) => match[1]!)
    expect(named.length).toBeGreaterThan(5)
    for (const name of named) expect(codes).toContain(name)
  })
})

describe('Qwen3Error', () => {
  test('code, message, subject, cause', () => {
    const cause = new Error('inner')
    const error = new Qwen3Error('BUSY', 'later', { subject: 'queue', cause })
    expect(error).toBeInstanceOf(Error)
    expect(error).toMatchObject({ name: 'Qwen3Error', code: 'BUSY', message: 'later', subject: 'queue', cause })
    expect(Object.hasOwn(new Qwen3Error('BUSY', 'later'), 'subject')).toBe(false)
    expect(Object.hasOwn(new Qwen3Error('BUSY', 'later'), 'cause')).toBe(false)
  })

  test('aborted: the name tells a timeout from an abort', async () => {
    const timeout = AbortSignal.timeout(1)
    await new Promise((resolve) => timeout.addEventListener('abort', resolve))
    expect(abortedError(timeout.reason)).toMatchObject({ code: 'ABORTED', name: 'TimeoutError', cause: timeout.reason })
    for (const reason of [undefined, null, 'why', new Error('x'), AbortSignal.abort().reason])
      expect(abortedError(reason)).toMatchObject({ code: 'ABORTED', name: 'AbortError' })
    expect(() => throwIfAborted(AbortSignal.abort('why'))).toThrow(Qwen3Error)
    expect(throwIfAborted(undefined)).toBeUndefined()
    expect(throwIfAborted(new AbortController().signal)).toBeUndefined()
  })

  test('values are shown short, and long texts not at all', () => {
    const secret = 'secret '.repeat(20)
    expect(received(secret)).toBe('a string of 140 characters')
    for (const [value, shown] of [
      ['a', '"a"'],
      [1, '1'],
      [NaN, 'NaN'],
      [-0, '0'],
      [1n, '1n'],
      [null, 'null'],
      [undefined, 'undefined'],
      [[1, 2], 'an array of 2 items'],
      [{}, 'an object'],
      [() => 1, 'a function'],
      [Symbol('x'), 'a symbol'],
      [true, 'true'],
    ] as const) {
      expect(received(value)).toBe(shown)
    }
  })
})
