// `npm run test:cuda`: the CUDA kernels without a GPU. Everything, gpu_check and gpu_bench too, compiles for sm_80 and sm_90a (where
// nvcc is there; warnings are errors, and so are spills and stack frames), every kernel and whole tiny models run on the host
// emulation, faults planted in the kernels are found, models run through the addon on the emulated device, and gpu_bench at tiny
// shapes. `--no-nvcc` leaves the compiling out; `--long` plants every fault, not half of them by lot
// (`--fault-seed N`: the lot of an earlier run).
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { checkPtxas } from './check-ptxas.mjs'
import { plantFaults } from './cuda-faults.mjs'
import { buildNative, has, installPackages, requireBuildTools, root, run } from './setup.mjs'

requireBuildTools()
const folder = join(root, 'build-cuda-tests')
const nvcc = has('nvcc') && !process.argv.includes('--no-nvcc')
const at = process.argv.indexOf('--fault-seed')
const faultSeed = at > 0 ? Number(process.argv[at + 1]) : undefined
const options = ['-DQWEN3_ADDON=OFF', '-DQWEN3_CUDA_TESTS=ON', `-DQWEN3_CUDA=${nvcc ? 'ON' : 'OFF'}`]
const generator = has('ninja') ? ['-G', 'Ninja'] : []
run('cmake', ['-S', root, '-B', folder, ...generator, ...options, '-DQWEN3_CUDA_ARCHITECTURES=80;90a'])
const targets = ['all', ...(nvcc ? ['gpu_check', 'gpu_bench'] : [])]
run('cmake', ['--build', folder, '--parallel', '2', '--target', ...targets])
let failed = 0
let passed = 0
if (nvcc) {
  if (checkPtxas(folder, ['sm_80', 'sm_90a'])) passed++
  else failed++
} else {
  console.log('nvcc was not found: the kernels were compiled for the emulation only')
}
const tests = spawnSync(
  'ctest',
  ['--test-dir', folder, '-R', '^cuda_', '--output-on-failure', '--timeout', '480', '-j2'],
  {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  },
)
process.stdout.write(tests.stdout ?? '')
process.stderr.write(tests.stderr ?? '')
const summary = /(\d+) tests failed out of (\d+)/.exec(tests.stdout ?? '')
if (!summary || Number(summary[2]) === 0) failed++
else {
  passed += Number(summary[2]) - Number(summary[1])
  failed += Number(summary[1])
}
// Planted faults must be found by the tests that just passed.
const [caught, missed] = failed === 0 ? await plantFaults(folder, process.argv.includes('--long'), faultSeed) : [0, 0]
passed += caught
failed += missed
// Three files on two cores: they take one, one and two minutes. Models through the addon, on the emulated device; and what runs on the day of a GPU.
installPackages()
buildNative({ quiet: true })
const files = ['test/cuda-addon.test.ts', 'test/cuda-forced.test.ts', 'test/gpu-bench.test.ts']
const addon = spawnSync(
  process.execPath,
  [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--maxWorkers=3', ...files],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      QWEN3_CUDA_LIBRARY: join(folder, 'libqwen3_cuda_emulated.so'),
      QWEN3_GPU_BENCH: join(folder, 'gpu_bench_emulated'),
    },
  },
)
if (addon.status === 0) passed++
else failed++
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
