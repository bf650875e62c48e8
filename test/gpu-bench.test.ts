/**
 * What runs on the day of a GPU, without one: gpu_bench at tiny shapes on the emulation (QWEN3_GPU_BENCH names gpu_bench_emulated,
 * npm run test:cuda), and bench/peers/torch_gpu.py, which measures the peers beside it, with constant times in their places.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'

const program = process.env.QWEN3_GPU_BENCH
const peers = join(__dirname, '..', 'bench', 'peers')
const python = spawnSync('python3', ['--version']).status === 0
const folder = mkdtempSync(join(tmpdir(), 'qwen3-gpu-bench-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Line {
  case: string
  side: string
  us?: number
  skipped?: string
  bytes?: number
  flops?: number
  of_copy?: number
}

function lines(text: string): Line[] {
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)
}

function runPython(script: string, ...options: string[]) {
  return spawnSync('python3', ['-B', join(peers, script), ...options], { encoding: 'utf8', timeout: 300_000 })
}

describe.skipIf(!program)('gpu_bench on the emulation', () => {
  test('every case is measured, with its bytes and its fraction of the limits', { timeout: 300_000 }, () => {
    const names = spawnSync(program!, ['--tiny', '--list'], { encoding: 'utf8' }).stdout.trim().split('\n')
    const ran = spawnSync(program!, ['--tiny'], { encoding: 'utf8' })
    expect(ran.status, ran.stderr).toBe(0)
    const [header, ...records] = lines(ran.stdout)
    expect(header).toMatchObject({ device: expect.any(String), multiprocessors: expect.any(Number) })
    expect(records.map((record) => record.case)).toEqual(names.filter((name) => name !== 'unload'))
    for (const record of records) {
      expect(record.skipped, record.case).toBeUndefined()
      expect(record.us, record.case).toBeGreaterThan(0)
      expect(record.bytes, record.case).toBeGreaterThan(0)
      expect(record.of_copy, record.case).toBeGreaterThan(0)
    }
    // The least bytes of a decode step at batch 3 are those of batch 1 and two caches more, of 20 positions and the mean of 2 steps.
    const of = (name: string) => records.find((record) => record.case === name)!.bytes!
    expect(of('model/tiny/decode/3x20') - of('model/tiny/decode/1x20')).toBe(2 * (20 + 1.5) * 4 * 2 * 2 * 128)
  })

  test('the kernels of sm_90a', { timeout: 300_000 }, () => {
    for (const kind of ['gemm', 'attention_prefill', 'moe']) {
      const env = { ...process.env, QWEN3_EMULATED_COMPUTE: '90' }
      const ran = spawnSync(program!, ['--tiny', '--only', kind], { encoding: 'utf8', env })
      const records = lines(ran.stdout).filter((record) => record.case?.startsWith(kind))
      expect(records.length).toBeGreaterThan(0)
      for (const record of records) expect(record.us, `${record.case}: ${record.skipped}`).toBeGreaterThan(0)
    }
  })

  test('one case at a time, and what does not exist', { timeout: 300_000 }, () => {
    const input = 'limit/copy\nno/such\nunload\nstream/tiny.o/1\n'
    const ran = spawnSync(program!, ['--tiny', '--serve'], { encoding: 'utf8', input })
    const [, copy, unknown, unload, stream] = lines(ran.stdout)
    expect(copy!.us).toBeGreaterThan(0)
    expect(unknown).toMatchObject({ case: 'no/such', skipped: 'no such case' })
    expect(unload).toEqual({ case: 'unload' })
    expect(stream).toMatchObject({ case: 'stream/tiny.o/1', us: expect.any(Number) })
  })

  test.skipIf(!python)('beside its peers', { timeout: 300_000 }, () => {
    const out = join(folder, 'gpu_bench.json')
    const options = ['--bench', program!, '--tiny', '--dry', '--rounds', '2', '--only', 'attention', '--out', out]
    const ran = runPython('torch_gpu.py', ...options)
    expect(ran.status, ran.stderr).toBe(0)
    const result = JSON.parse(readFileSync(out, 'utf8'))
    const sides = result.records
      .filter((record: Line) => record.case.startsWith('attention_prefill'))
      .map((record: Line) => record.side)
    expect(sides).toEqual(['ours', 'sdpa_flash', 'sdpa_cudnn', 'ours', 'sdpa_flash', 'sdpa_cudnn'])
    expect(result.bars.length).toBeGreaterThan(10)
    expect(ran.stdout).toContain('not measured')
  })

  test.skipIf(!python)('two forms of a product in turn', { timeout: 300_000 }, () => {
    const out = join(folder, 'forms.json')
    const options = ['--bench', program!, '--tiny', '--dry', '--rounds', '1', '--only', 'moe/experts', '--out', out]
    const ran = runPython('torch_gpu.py', ...options)
    expect(ran.status, ran.stderr).toBe(0)
    const records: Line[] = JSON.parse(readFileSync(out, 'utf8')).records
    const experts = records.filter((record) => record.case.startsWith('moe/'))
    expect(new Set(experts.map((record) => record.case))).toEqual(new Set(['moe/experts/70']))
    expect(experts.map((record) => record.side)).toEqual(['ours', 'ours_weights_as_rows', 'cublas_loop'])
    for (const record of experts) expect(record.us, record.side).toBeGreaterThan(0)
  })
})

describe.skipIf(!python)('the run beside PyTorch', () => {
  test('the bars on synthetic records', () => {
    const ran = runPython('gpu_bars_test.py')
    expect(ran.status, ran.stderr).toBe(0)
  })

  test('a case that ends the process, one that never answers, no time left: the rest is kept', {
    timeout: 300_000,
  }, () => {
    const fake = join(folder, 'fake_bench')
    writeFileSync(
      fake,
      `#!${process.execPath}
const cases = ['limit/copy', 'gemm/8b.qkv/4096', 'gemm/8b.o/4096', 'sample/64', 'model/8b/prefill/8192']
if (process.argv.includes('--list')) console.log(cases.join('\\n'))
else {
  console.log(JSON.stringify({ device: 'fake' }))
  require('node:readline').createInterface({ input: process.stdin }).on('line', (name) => {
    if (name.includes('qkv')) process.exit(3)
    if (name.includes('.o')) return
    console.log(JSON.stringify({ case: name, side: 'ours', us: 5, bytes: 10, flops: 10, gb_s: 1 }))
  })
}
`,
    )
    chmodSync(fake, 0o755)
    const out = join(folder, 'fake.json')
    const options = ['--bench', fake, '--dry', '--case-seconds', '1', '--out', out]
    const ran = runPython('torch_gpu.py', ...options)
    expect(ran.status, ran.stderr).toBe(0)
    const records = JSON.parse(readFileSync(out, 'utf8')).records as Line[]
    const of = (name: string) => records.filter((record) => record.case === name)
    expect(of('gemm/8b.qkv/4096')[0]!.skipped).toContain('gpu_bench ended')
    expect(of('gemm/8b.o/4096')[0]!.skipped).toContain('gpu_bench ended')
    expect(of('sample/64')[0]!.us).toBe(5)
    expect(of('model/8b/prefill/8192').map((record) => record.side)).toContain('transformers_eager')

    runPython('torch_gpu.py', ...options.slice(0, 3), '--seconds', '-1', '--out', out)
    const late = JSON.parse(readFileSync(out, 'utf8')).records as Line[]
    expect(late).toHaveLength(5)
    for (const record of late) expect(record.skipped).toBe('no time was left')
  })

  test('without torch the peers are left out and ours are measured', () => {
    // -S: no site-packages, hence no torch, on whatever machine.
    const script = `import sys; sys.path.insert(0, ${JSON.stringify(peers)}); import torch_gpu; print(torch_gpu.make_peers(False).versions)`
    const ran = spawnSync('python3', ['-B', '-S', '-c', script], { encoding: 'utf8' })
    expect(ran.stdout).toContain("'torch': None")
  })
})
