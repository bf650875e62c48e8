/** The gate on what ptxas reports finds what it is there for. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
// @ts-expect-error: a script without types
import { judge, performanceLosses, readLog } from '../scripts/check-ptxas.mjs'

const entry = (kernel: string, architecture: string, stack: number, spills: number) => `
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5qwen34cuda12_GLOBAL__N_1${kernel.length}${kernel}ILi128EEEvPKt' for '${architecture}'
ptxas info    : Function properties for _ZN5qwen34cuda12_GLOBAL__N_1${kernel.length}${kernel}ILi128EEEvPKt
    ${stack} bytes stack frame, ${spills} bytes spill stores, ${spills} bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers
`

describe('check-ptxas', () => {
  test('reads kernels, architectures, registers and stacks', () => {
    const [first, second] = readLog(entry('decode_kernel', 'sm_80', 0, 0) + entry('decode_kernel', 'sm_90a', 8, 4))
    expect(first).toEqual({ kernel: 'decode_kernel 128', architecture: 'sm_80', registers: 168, stack: 0, spills: 0 })
    expect(second).toMatchObject({ architecture: 'sm_90a', stack: 8, spills: 8 })
  })

  test('spills, stack frames, silence and missing names are problems', () => {
    const problems = (text: string) => judge(readLog(text), []) as string[]
    expect(problems(entry('decode_kernel', 'sm_80', 0, 0))).toEqual([])
    expect(problems(entry('decode_kernel', 'sm_80', 16, 4))[0]).toContain('spills 8 bytes')
    expect(problems(entry('decode_kernel', 'sm_80', 16, 0))[0]).toContain('stack frame of 16 bytes')
    expect(problems(entry('begin_step_kernel', 'sm_80', 40, 0))).toEqual([])
    expect(problems(entry('decode_kernel', 'sm_80', 0, 0).split('    0 bytes stack')[0]!)[0]).toContain('nothing')
    const missing = judge(readLog(entry('decode_kernel', 'sm_80', 0, 0)), ['sm_80', 'sm_90a']) as string[]
    expect(missing).toContain('no kernel named decode_kernel was compiled for sm_90a')
    expect(missing).not.toContain('no kernel named decode_kernel was compiled for sm_80')
  })

  test('a serialised wgmma is a problem', () => {
    const message =
      "ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in function 'f'"
    expect(performanceLosses(`${entry('f', 'sm_90a', 0, 0)}${message}\n`)).toEqual([message])
    expect(performanceLosses(entry('f', 'sm_90a', 0, 0))).toEqual([])
  })

  test('every hot kernel that it names is in the sources', () => {
    const script = readFileSync(join(__dirname, '../scripts/check-ptxas.mjs'), 'utf8')
    const names = /const hot = \[([^\]]*)\]/
      .exec(script)![1]!
      .match(/'(\w+)'/g)!
      .map((name) => name.slice(1, -1))
    expect(names.length).toBeGreaterThan(8)
    const problems = judge([], ['sm_80']) as string[]
    expect(problems).toHaveLength(names.length)
  })
})
