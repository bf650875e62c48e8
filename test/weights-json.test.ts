import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Qwen3Error } from '../lib/errors'
import { parseConfig } from '../lib/weights'
import { type JsonObject, parseJson } from '../lib/weights/json'
import { smallConfig, smallMoeConfig } from './helpers/safetensors'

const runs = (slice: number) => ({ numRuns: process.env.QWEN3_LONG ? 100 * slice : slice })

async function attempt(text: string): Promise<{ value?: unknown; code?: string }> {
  try {
    return { value: await parseJson(text, 'x') }
  } catch (error) {
    if (error instanceof Qwen3Error) return { code: error.code }
    throw error
  }
}

describe('the JSON reader', () => {
  test('reads what JSON.parse reads', async () => {
    await fc.assert(
      fc.asyncProperty(fc.json({ maxDepth: 8 }), fc.constantFrom(undefined, 1, '\t'), async (text, indent) => {
        const value: unknown = JSON.parse(text)
        const { value: read } = await attempt(JSON.stringify(value, null, indent))
        expect(JSON.stringify(read)).toBe(JSON.stringify(value))
      }),
      runs(2000),
    )
  })

  test('accepts and refuses what JSON.parse does, on damaged text, but for duplicate keys and numbers out of range', async () => {
    const damage = fc.array(
      fc.tuple(
        fc.nat(),
        fc.constantFrom(
          '',
          '"',
          '{',
          '}',
          '[',
          ']',
          ',',
          ':',
          '\\',
          ' ',
          '\n',
          '0',
          '1',
          'e',
          '.',
          '-',
          'n',
          'true',
          '\u0001',
        ),
      ),
      { maxLength: 3 },
    )
    let refused = 0
    await fc.assert(
      fc.asyncProperty(fc.json({ maxDepth: 4 }), damage, async (valid, edits) => {
        let text = valid
        for (const [at, piece] of edits)
          text = text.slice(0, at % (text.length + 1)) + piece + text.slice((at % (text.length + 1)) + 1)
        const { value, code } = await attempt(text)
        let parsed: unknown
        try {
          parsed = JSON.parse(text)
        } catch {
          expect(code).toBe('BAD_MODEL_FILE')
          refused++
          return
        }
        if (code === undefined) expect(JSON.stringify(value)).toBe(JSON.stringify(parsed))
        else expect(code).toBe('BAD_MODEL_FILE')
      }),
      runs(3000),
    )
    expect(refused).toBeGreaterThan(300)
  })

  test('keys of objects reach no prototype', async () => {
    const { value } = await attempt('{"__proto__": {"a": 1}, "constructor": 2, "toString": 3}')
    expect(Object.getPrototypeOf(value)).toBeNull()
    expect(Object.keys(value as object)).toEqual(['__proto__', 'constructor', 'toString'])
    expect(({} as Record<string, unknown>).a).toBeUndefined()
  })

  test('depth and count are bounded', async () => {
    expect(await attempt('['.repeat(32) + ']'.repeat(32))).toHaveProperty('value')
    expect(await attempt('['.repeat(33) + ']'.repeat(33))).toEqual({ code: 'BAD_MODEL_FILE' })
    expect(await attempt('['.repeat(5_000_000))).toEqual({ code: 'BAD_MODEL_FILE' })
    await expect(parseJson(`[${'1,'.repeat(10)}1]`, 'x', { maxValues: 5 })).rejects.toThrow(/more than 5 values/)
  })

  test('a million backslashes and quotes are linear', async () => {
    const cost = async (length: number) => {
      const before = process.cpuUsage()
      await attempt(`["${'\\'.repeat(length)}"]`)
      await attempt(`["${'\\"'.repeat(length / 2)}"]`)
      const { user, system } = process.cpuUsage(before)
      return (user + system) / 1000
    }
    await cost(1 << 16)
    const small = Math.min(await cost(1 << 17), await cost(1 << 17))
    expect(Math.min(await cost(1 << 20), await cost(1 << 20))).toBeLessThan(24 * Math.max(small, 4))
  })
})

test('any value in any field of a config gives a config or a typed error', () => {
  const fields = [
    ...new Set([
      ...Object.keys(smallConfig()),
      ...Object.keys(smallMoeConfig()),
      'rope_parameters',
      'quantization_config',
      'layer_types',
      'x',
      '__proto__',
    ]),
  ]
  const yarnField = fc.constantFrom(
    'rope_type',
    'type',
    'factor',
    'original_max_position_embeddings',
    'beta_fast',
    'attention_factor',
    'rope_theta',
    'truncate',
    'mscale',
  )
  const odd = fc.oneof(
    fc.constantFrom<unknown>(
      null,
      true,
      false,
      0,
      -0,
      1,
      -1,
      2,
      0.5,
      1e9,
      2 ** 31,
      2 ** 53,
      1e308,
      NaN,
      Infinity,
      '',
      '1',
      'yarn',
      [],
      {},
      [0],
      [null],
    ),
    fc.jsonValue({ maxDepth: 2 }),
    fc.dictionary(yarnField, fc.constantFrom<unknown>('yarn', 'default', 4, 0, -1, 32768, 'x', null, true)),
  )
  let accepted = 0
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.array(fc.tuple(fc.constantFrom(...fields), odd), { minLength: 1, maxLength: 3 }),
      (moe, edits) => {
        const config = (moe ? smallMoeConfig() : smallConfig()) as JsonObject
        for (const [field, value] of edits)
          Object.defineProperty(config, field, { value, enumerable: true, configurable: true, writable: true })
        try {
          const { native } = parseConfig(config, 'config.json')
          for (const n of [
            native.layers,
            native.hidden,
            native.qHeads,
            native.kvHeads,
            native.headDim,
            native.vocab,
            native.nativeWindow,
          ]) {
            expect(Number.isSafeInteger(n) && n > 0).toBe(true)
          }
          expect(native.qHeads % native.kvHeads).toBe(0)
          expect(native.ropeTheta).toBeGreaterThan(1)
          expect(native.moeLayers.length).toBe(native.layers)
          accepted++
        } catch (error) {
          if (!(error instanceof Qwen3Error)) throw error
          expect(['BAD_MODEL_FILE', 'UNSUPPORTED']).toContain(error.code)
        }
      },
    ),
    runs(5000),
  )
  expect(accepted).toBeGreaterThan(50)
})
