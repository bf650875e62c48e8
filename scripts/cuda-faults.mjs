// Plants one fault at a time in a CUDA kernel and expects its emulation test to fail: a test of the tests. Run by
// `npm run test:cuda` on its build folder. Each fault is a textual change of one line that must be there exactly once.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root } from './setup.mjs'

/** kernel: the .cu to compile; file: where the fault goes; from -> to. The tests are named by what they cover. */
const faults = [
  ['a removed barrier', 'linear', 'gemm.h', /block_sync\(\); {2}\/\/ this tile has arrived.*/, '', 'cuda_ops_test'],
  [
    'a copy not waited for',
    'linear',
    'gemm.h',
    'cp_async_wait<kStages - 2>',
    'cp_async_wait<kStages - 1>',
    'cuda_ops_test',
  ],
  [
    'sums read before they are written',
    'linear',
    'gemm.h',
    /block_sync\(\);(?=\n {2}\/\/ A thread writes two)/,
    '',
    'cuda_ops_test',
  ],
  [
    'a stage released early',
    'linear_hopper',
    'linear_hopper.cu',
    'wgmma_wait<1>();',
    'wgmma_wait<2>();',
    'cuda_ops_test',
  ],
  ['a wrong parity', 'linear_hopper', 'linear_hopper.cu', 'slot.parity ^ 1', 'slot.parity', 'cuda_ops_test'],
  [
    'wrong transaction bytes',
    'linear_hopper',
    'linear_hopper.cu',
    'barriers.full(slot.stage), kStageElements * 2',
    'barriers.full(slot.stage), kStageElements',
    'cuda_ops_test',
  ],
  ['no wgmma.fence', 'linear_hopper', 'linear_hopper.cu', 'wgmma_fence();', '', 'cuda_ops_test'],
  [
    'a missing proxy fence',
    'attention_prefill_hopper',
    'attention_prefill_hopper.cu',
    'fence_proxy_async();',
    '',
    'cuda_attention_test',
  ],
  [
    'a wrong swizzle',
    'attention_prefill_hopper',
    'attention_prefill_hopper.cu',
    'matrix_descriptor(k + offset, 16, 1024, Swizzle::k128)',
    'matrix_descriptor(k + offset, 16, 1024, Swizzle::k64)',
    'cuda_attention_test',
  ],
  [
    'swapped descriptor fields',
    'attention_prefill_hopper',
    'attention_prefill_hopper.cu',
    'kHalf * 2, 1024, Swizzle::k128',
    '1024, kHalf * 2, Swizzle::k128',
    'cuda_attention_test',
  ],
  [
    'weights packed before the product read them',
    'attention_prefill_hopper',
    'attention_prefill_hopper.cu',
    /wgmma_wait<0>\(\);(?=\n {4}if \(lane == 0\) mbarrier_arrive\(barriers.v_empty)/,
    '',
    'cuda_attention_test',
  ],
  [
    'an off-by-one page',
    'attention_decode',
    'attention.h',
    'sequence.table_begin + i)',
    'sequence.table_begin + i + 1)',
    'cuda_attention_test',
  ],
  [
    'keys overwritten while they are read',
    'attention_decode',
    'attention_decode.cu',
    /warp_sync\(\);(?=\n {4}copy\(keys, cache.keys, block)/,
    '',
    'cuda_attention_test',
  ],
  [
    'the mask one key too early',
    'attention_prefill',
    'attention.h',
    '> position[i / 2]',
    '>= position[i / 2]',
    'cuda_attention_test',
  ],
  [
    'rotation with the wrong partner',
    'qk_norm_rope',
    'qk_norm_rope.cu',
    'shuffle_xor(x, 16)',
    'shuffle_xor(x, 8)',
    'cuda_attention_test',
  ],
  [
    'a scan without its first barrier',
    'moe',
    'moe.cu',
    /block_sync\(\); {2}\/\/ the sums of the last call.*/,
    '',
    'cuda_moe_test',
  ],
  ['ties to the higher expert', 'moe', 'moe.cu', 'other_id < id', 'other_id > id', 'cuda_moe_test'],
  [
    'a histogram read too soon',
    'sampling',
    'sampling.cu',
    /block_sync\(\);(?=\n {4}if \(thread == 0\) \{\n {6}int digit)/,
    '',
    'cuda_sampling_test',
  ],
]

/** Returns [caught, missed]. */
export function plantFaults(build) {
  const folder = mkdtempSync(join(tmpdir(), 'qwen3-cuda-faults-'))
  mkdirSync(join(folder, 'cuda'))
  let caught = 0
  let missed = 0
  for (const [name, kernel, file, from, to, test] of faults) {
    const original = readFileSync(join(root, 'native/cuda', file), 'utf8')
    const found = original.match(
      typeof from === 'string' ? new RegExp(escapePattern(from), 'g') : new RegExp(from.source, 'g'),
    )
    const planted = join(folder, 'cuda', file)
    writeFileSync(planted, original.replace(from, to))
    const why = found?.length !== 1 ? 'the line to change is not there once' : survives(folder, build, kernel, test)
    rmSync(planted)
    if (why) missed++
    else caught++
    console.log(`${why ? 'MISSED' : 'caught'}: ${name} (${kernel}.cu)${why ? `: ${why}` : ''}`)
  }
  rmSync(folder, { recursive: true, force: true })
  return [caught, missed]
}

/** Why a fault was not caught; empty: it was. */
function survives(folder, build, kernel, test) {
  const program = join(folder, 'program')
  const compiled = spawnSync(
    process.env.CXX ?? 'c++',
    [
      ...[
        '-std=c++20',
        '-O1',
        '-g1',
        '-w',
        '-ffp-contract=off',
        '-fno-math-errno',
        `-I${folder}`,
        `-I${join(root, 'native')}`,
      ],
      ...['-x', 'c++', '-include', `cuda/${kernel}.cu`, '/dev/null', '-x', 'none'],
      join(build, `CMakeFiles/${test}.dir/test/native/${test}.cc.o`),
      ...[
        join(build, 'libqwen3_cuda_emulated.a'),
        join(build, 'libqwen3_engine.a'),
        '-lpthread',
        '-ldl',
        '-o',
        program,
      ],
    ],
    { encoding: 'utf8' },
  )
  if (compiled.status !== 0) return `does not compile: ${compiled.stderr.slice(0, 500)}`
  const ran = spawnSync(program, ['--seed', '1'], { encoding: 'utf8', timeout: 120_000, maxBuffer: 1 << 28 })
  return ran.status === 1 ? '' : `the test ended with ${ran.signal ?? ran.status}`
}

function escapePattern(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
