import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Finished, start } from './helpers/command'
import { type CompiledLibrary, compileLibrary, fixture } from './helpers/library'

let library: CompiledLibrary

beforeAll(() => {
  library = compileLibrary()
})
afterAll(() => library.remove())

/** Brings the engine of a new process to `moment`, ends it by `ending`, and returns how it went. */
const run = (moment: string, ending: string): Promise<Finished> =>
  start(process.execPath, [fixture('exit.cjs'), moment, ending], { env: { QWEN3_LIBRARY: library.index } }).finished

describe.each(['prefill', 'decode', 'idle', 'load'])('in %s', (moment) => {
  const reached = moment === 'load' ? 'loading' : moment

  test('process.exit() ends with its code', async () => {
    const { code, signal, stdout, stderr } = await run(moment, 'exit')
    expect({ code, signal, stderr }).toEqual({ code: 7, signal: null, stderr: '' })
    expect(stdout).toBe(`${reached}\nexit event 7\n`)
  })

  test('an uncaught exception ends with 1 and its message', async () => {
    const { code, signal, stdout, stderr } = await run(moment, 'throw')
    expect({ code, signal }).toEqual({ code: 1, signal: null })
    expect(stderr).toContain('thrown on purpose')
    expect(stderr).not.toMatch(/terminate called|Assertion|FATAL/)
    expect(stdout).toContain(`${reached}\n`)
    expect(stdout).toContain('exit event 1\n')
  })

  test('SIGTERM ends with SIGTERM', async () => {
    const { code, signal, stderr } = await run(moment, 'sigterm')
    expect({ code, signal, stderr }).toEqual({ code: null, signal: 'SIGTERM', stderr: '' })
  })
})

test('pending generations keep the process alive to their end, consumed or not', async () => {
  for (const moment of ['prefill', 'decode']) {
    const { code, signal, stdout, stderr } = await run(moment, 'natural')
    expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
    expect(stdout.match(/completed 50/g)).toHaveLength(3)
    expect(stdout.trimEnd().endsWith('exit event 0')).toBe(true)
  }
})

test('an idle model does not keep the process alive', async () => {
  const { code, signal, stdout, stderr } = await run('idle', 'natural')
  expect({ code, signal, stdout, stderr }).toEqual({
    code: 0,
    signal: null,
    stdout: 'idle\nexit event 0\n',
    stderr: '',
  })
})

test.each(['prefill', 'decode'])('close() in %s ends the streams, then the process ends', async (moment) => {
  const { code, signal, stdout, stderr } = await run(moment, 'close')
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
  expect(stdout.match(/failed ABORTED/g)).toHaveLength(3)
})
