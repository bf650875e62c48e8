import { afterAll, beforeAll, expect, test } from 'vitest'
import { start } from './helpers/command'
import { type CompiledLibrary, compileLibrary, fixture } from './helpers/library'

let library: CompiledLibrary

beforeAll(() => {
  library = compileLibrary()
})
afterAll(() => library.remove())

// The figures themselves (readFile p99 below 5 ms, eight streams at 2.5 times one) are bench/node.ts's: machines that test are busy.
test('with one libuv thread, eight streams and a load leave the file system to others', async () => {
  const { code, stdout, stderr } = await start(process.execPath, [fixture('threadpool.cjs')], {
    env: { QWEN3_LIBRARY: library.index, UV_THREADPOOL_SIZE: '1' },
  }).finished
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const figures = JSON.parse(stdout)
  // One pool thread held by us would let no read through until the work ends.
  expect(figures.reads).toBeGreaterThan(20)
  expect(figures.readMost).toBeLessThan(figures.ms / 2)
  expect(figures.tokensPerSecond).toBeGreaterThan(figures.oneStreamTokensPerSecond)
})
