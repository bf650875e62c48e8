// Plants one fault at a time in a CUDA kernel and expects its emulation test to fail: a test of the tests. Run by
// `npm run test:cuda` on its build folder. Each fault is a textual change of one line that must be there exactly once.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
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
    'linear_stream',
    'linear_stream.h',
    /block_sync\(\);(?=\n {4}\/\/ A thread writes two)/,
    '',
    'cuda_ops_test',
  ],
  [
    'rows read while the kernel ahead may write them',
    'linear_stream',
    'linear_stream.cu',
    /grid_dependency_wait\(\);(?=\n {4}const NormedRows)/,
    '',
    'cuda_stream_test',
  ],
  [
    'rows multiplied before they are normalised',
    'linear_stream',
    'linear_stream.cu',
    /block_sync\(\);(?=\n {2}const int group = thread_index)/,
    '',
    'cuda_stream_test',
  ],
  [
    'a counter that is not put back',
    'linear_stream_hopper',
    'arrival.h',
    'if (last) store(counter, 0);',
    '',
    'cuda_stream_test',
  ],
  [
    'a row scaled by the first one',
    'linear_stream',
    'norm.h',
    'norm_scale(partial + r * kNormWarps, k, eps)',
    'norm_scale(partial, k, eps)',
    'cuda_stream_test',
  ],
  [
    'rows of x multiplied without a proxy fence',
    'linear_stream_hopper',
    'stream_hopper.h',
    'fence_proxy_async();  // wgmma reads what cp.async wrote',
    '',
    'cuda_ops_test',
  ],
  [
    'a stage of weights overwritten while it is multiplied',
    'linear_stream_hopper',
    'stream_hopper.h',
    'wgmma_wait<0>();  // the products',
    'wgmma_wait<1>();  // the products',
    'cuda_ops_test',
  ],
  [
    'rows of x in the wrong chunks',
    'linear_stream_hopper',
    'stream_hopper.h',
    '(chunk ^ row0) * 8',
    'chunk * 8',
    'cuda_ops_test',
  ],
  [
    'parts of a tile added up before the last is there',
    'linear_stream_hopper',
    'linear_stream_hopper.cu',
    'tile, last - first + 1)',
    'tile, last - first)',
    'cuda_ops_test',
  ],
  [
    "other blocks' parts read without a fence",
    'linear_stream_hopper',
    'arrival.h',
    /thread_fence\(\); {2}\/\/ what the others wrote/,
    '',
    'cuda_ops_test',
  ],
  [
    'weights asked for before their place is free',
    'moe_stream_hopper',
    'stream_hopper.h',
    'mbarrier_wait(empty(slot.stage), slot.parity ^ 1);',
    'mbarrier_wait(empty(slot.stage), slot.parity);',
    'cuda_moe_test',
  ],
  [
    'rows of the expert behind',
    'moe_stream_hopper',
    'moe_stream_hopper.cu',
    'chosen.begin().load(index + 1)',
    'chosen.begin().load(index + 1) + 1',
    'cuda_moe_test',
  ],
  [
    'experts looked up while the router may still write them',
    'moe_stream_hopper',
    'moe_stream_hopper.cu',
    'prefetch_maps(p);\n    grid_dependency_wait();',
    'grid_dependency_launch();\n    grid_dependency_wait();',
    'cuda_moe_test',
  ],
  [
    'gated rows copied while gate and up may still write them',
    'moe_stream_hopper',
    'moe_stream_hopper.cu',
    'p.down && (is_consumer() || is_row_copier())',
    'p.down && is_consumer()',
    'cuda_moe_test',
  ],
  [
    'experts added up before the last has come',
    'moe_stream_hopper',
    'moe_stream_hopper.cu',
    'n0 / kM, n))',
    'n0 / kM, n > 1 ? n - 1 : 1))',
    'cuda_moe_test',
  ],
  ['a stage released early', 'linear_hopper', 'gemm_hopper.h', 'wgmma_wait<1>();', 'wgmma_wait<2>();', 'cuda_ops_test'],
  ['a wrong parity', 'linear_hopper', 'linear_hopper.cu', 'slot.parity ^ 1', 'slot.parity', 'cuda_ops_test'],
  [
    'wrong transaction bytes',
    'linear_hopper',
    'linear_hopper.cu',
    'full, R::kStageElements * 2',
    'full, R::kStageElements',
    'cuda_ops_test',
  ],
  ['no wgmma.fence', 'linear_hopper', 'gemm_hopper.h', 'wgmma_fence();', '', 'cuda_ops_test'],
  [
    'a missing proxy fence',
    'attention_prefill_hopper',
    'attention_prefill_hopper.cu',
    /fence_proxy_async\(\); {2}\/\/ the product reads them/,
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
    /wgmma_wait<0>\(\);(?=\n {6}if \(lane == 0\) mbarrier_arrive\(barriers.v_empty)/,
    '',
    'cuda_attention_test',
  ],
  [
    'rows of Q replaced before they are read',
    'attention_prefill_hopper',
    'attention_prefill_hopper.cu',
    'mbarrier_wait(barriers.q_empty(slot), (round / kStages & 1) ^ 1);',
    '',
    'cuda_attention_test',
  ],
  [
    'keys of this step fetched before they are written',
    'attention_decode',
    'attention_decode.cu',
    'old = tile.new_begin - last * kKeys',
    'old = n_keys',
    'cuda_attention_test',
  ],
  [
    'the first key of this step taken for an old one',
    'attention_decode',
    'attention_decode.cu',
    'old < n_keys ? old : n_keys',
    'old < n_keys ? old + 1 : n_keys',
    'cuda_attention_test',
  ],
  [
    'a key appended by whoever needs it',
    'attention_decode',
    'attention_decode.cu',
    'if (first_row + u != tile.row) continue;',
    'if (first_row + u > tile.row) continue;',
    'cuda_attention_test',
  ],
  [
    'q heads read before they are normalised',
    'attention_decode',
    'attention_decode.cu',
    /block_sync\(\);(?=\n {2}} else {\n {4}if \(n_old)/,
    '',
    'cuda_attention_test',
  ],
  [
    'a row of the projection too far',
    'attention_decode',
    'attention_decode.cu',
    'tile.new_row + (key0 + first - tile.new_begin)',
    'tile.new_row + (key0 + first - tile.new_begin) / 2',
    'cuda_attention_test',
  ],
  [
    'keys of this step left out',
    'attention_decode',
    'attention_decode.cu',
    'i = begin * kChunks + lane; i < end * kChunks',
    'i = begin * kChunks + lane; i < (end - 1) * kChunks',
    'cuda_attention_test',
  ],
  [
    'keys of this step not waited for',
    'attention_decode',
    'attention_decode.cu',
    'if (n_old < n_keys) cp_async_wait<0>();',
    '',
    'cuda_attention_test',
  ],
  [
    'heads joined from those beside them',
    'attention_decode',
    'decode_columns.h',
    'row.stride * i + (first + h * kWarps) * partial_stride',
    'row.stride * i + (first + h) * partial_stride',
    'cuda_attention_test',
  ],
  [
    'an off-by-one page',
    'attention_decode',
    'attention.h',
    'load(table + i)',
    'load(table + i + 1)',
    'cuda_attention_test',
  ],
  [
    'keys overwritten while they are read',
    'attention_decode',
    'attention_decode.cu',
    /warp_sync\(\);(?=\n {4}copy\(keys, in.cache.keys, block)/,
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
    'qk_norm_rope.h',
    'shuffle_xor(x, 16)',
    'shuffle_xor(x, 8)',
    'cuda_attention_test',
  ],
  [
    'a scan without its first barrier',
    'moe_route',
    'moe_route.cu',
    /block_sync\(\); {2}\/\/ the sums of the last call.*/,
    '',
    'cuda_moe_test',
  ],
  [
    'gathered rows announced without a proxy fence',
    'moe_hopper',
    'moe_hopper.h',
    /fence_proxy_async\(\); {2}\/\/ wgmma reads.*/,
    '',
    'cuda_moe_test',
  ],
  [
    'gathered rows announced before they arrive',
    'moe_hopper',
    'moe_hopper.h',
    'cp_async_wait<kLag - 1>',
    'cp_async_wait<kLag>',
    'cuda_moe_test',
  ],
  [
    'a tile handed on before all have read the last one',
    'moe_hopper',
    'moe_hopper.h',
    'mbarrier_wait(empty(slot_), parity_ ^ 1);',
    '',
    'cuda_moe_test',
  ],
  [
    'a stage of swapped operands released early',
    'moe_hopper_swapped',
    'moe_hopper_swapped.cu',
    'wgmma_wait<1>();',
    'wgmma_wait<2>();',
    'cuda_moe_test',
  ],
  [
    'a width that leaves out the last rows of a tile',
    'moe_hopper_swapped',
    'moe_hopper_swapped.cu',
    'switch ((tile.count + kUnit - 1) / kUnit)',
    'switch (tile.count / kUnit)',
    'cuda_moe_test',
  ],
  [
    'scores read without a fence',
    'moe_route_few',
    'arrival.h',
    /thread_fence\(\); {2}\/\/ what the others wrote/,
    '',
    'cuda_moe_test',
  ],
  ['ties to the higher expert', 'moe_route', 'moe_route.h', 'kMaxExperts - id : 0', 'id : 0', 'cuda_moe_test'],
  [
    'a histogram read too soon',
    'sampling_all',
    'sampling_all.cu',
    /block_sync\(\); {2}\/\/ all have been added/,
    '',
    'cuda_sampling_test',
  ],
  [
    'logits read before they are adjusted',
    'sampling',
    'sampling.cu',
    /block_sync\(\); {2}\/\/ what other threads adjusted/,
    '',
    'cuda_sampling_test',
  ],
  [
    'parts of a row joined without a fence',
    'sampling',
    'sampling_row.h',
    /thread_fence\(\); {2}\/\/ the other blocks' results/,
    '',
    'cuda_sampling_test',
  ],
  ['one candidate too few', 'sampling', 'sampling.cu', 'better == k - 1', 'better == k - 2', 'cuda_sampling_test'],
  [
    'two splits write one partial result',
    'attention_decode',
    'attention_decode.cu',
    'static_cast<int64_t>(tile.partial)',
    'static_cast<int64_t>(tile.partial / 2)',
    'cuda_attention_test',
  ],
  [
    'splits joined without a fence',
    'attention_decode',
    'arrival.h',
    /thread_fence\(\); {2}\/\/ what the others wrote/,
    '',
    'cuda_attention_test',
  ],
  [
    'lanes exchange the wrong halves',
    'linear_hopper',
    'gemm_hopper.h',
    'odd ? low0 : low1',
    'odd ? low1 : low0',
    'cuda_ops_test',
  ],
  [
    'two tiles write the same rows',
    'linear_hopper',
    'linear_hopper.cu',
    'row * kM + held_row()',
    'row * (kM - 16) + held_row()',
    'cuda_ops_test',
  ],
]

/** Plants `all` faults, or half of them, by lot of `seed`. Resolves to [caught, missed]. */
export async function plantFaults(build, all, seed = Math.floor(Math.random() * 2 ** 32)) {
  const folder = mkdtempSync(join(tmpdir(), 'qwen3-cuda-faults-'))
  const counts = [0, 0]
  // Half of them by lot: each takes seconds to compile, and over a few runs all have their turn.
  if (!all) console.log(`planted faults: --fault-seed ${seed}`)
  const lot = ([name]) => createHash('sha256').update(`${seed} ${name}`).digest('hex')
  const waiting = [...faults.entries()]
  if (!all) waiting.sort(([, a], [, b]) => (lot(a) < lot(b) ? -1 : 1)).splice(Math.ceil(faults.length / 2))
  // Two at a time: compiling and running one fault is single threaded.
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [number, [name, kernel, ...fault]] = next
      const why = await survives(join(folder, String(number)), build, kernel, ...fault)
      counts[why ? 1 : 0]++
      console.log(`${why ? 'MISSED' : 'caught'}: ${name} (${kernel}.cu)${why ? `: ${why}` : ''}`)
    }
  }
  await Promise.all([work(), work()])
  rmSync(folder, { recursive: true, force: true })
  return counts
}

/** Why a fault was not caught; empty: it was. */
async function survives(folder, build, kernel, file, from, to, test) {
  mkdirSync(join(folder, 'cuda'), { recursive: true })
  const original = readFileSync(join(root, 'native/cuda', file), 'utf8')
  const pattern = typeof from === 'string' ? escapePattern(from) : from.source
  if (original.match(new RegExp(pattern, 'g'))?.length !== 1) return 'the line to change is not there once'
  writeFileSync(join(folder, 'cuda', file), original.replace(from, to))
  const program = join(folder, 'program')
  const flags = ['-std=c++20', '-O1', '-g1', '-w', '-ffp-contract=off', '-fno-math-errno']
  const includes = [`-I${folder}`, `-I${join(root, 'native')}`]
  const source = ['-x', 'c++', '-include', `cuda/${kernel}.cu`, '/dev/null', '-x', 'none']
  const objects = [
    join(build, `CMakeFiles/${test}.dir/test/native/${test}.cc.o`),
    join(build, 'libqwen3_cuda_emulated.a'),
    join(build, 'libqwen3_engine.a'),
  ]
  const compiler = process.env.CXX ?? 'c++'
  const compiled = await start(compiler, [
    ...flags,
    ...includes,
    ...source,
    ...objects,
    '-lpthread',
    '-ldl',
    '-o',
    program,
  ])
  if (compiled.status !== 0) return `does not compile: ${compiled.errors.slice(0, 500)}`
  const ran = await start(program, ['--seed', '1'], 120_000)
  return ran.status === 1 ? '' : `the test ended with ${ran.status}`
}

/** Runs a program to its end; status: its exit status or the signal that ended it. */
function start(command, args, timeout) {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'], timeout })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors += text.slice(0, 10_000 - errors.length)
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ status: signal ?? code, errors }))
  })
}

function escapePattern(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
