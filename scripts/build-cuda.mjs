// `npm run build:cuda [-- --arch "80;90a"]`: libqwen3_cuda.so in build-cuda/, for all architectures or the named ones. Needs nvcc
// of CUDA 13, CMake and ninja; no GPU and no Node headers.
import { join } from 'node:path'
import { fail, has, requireBuildTools, root, run } from './setup.mjs'

requireBuildTools()
if (!has('nvcc')) fail('nvcc was not found. Install the CUDA Toolkit 13 and put its bin folder on PATH.')
if (!has('ninja')) fail('ninja was not found. Install ninja-build.')
const chosen = process.argv.indexOf('--arch')
const architectures = chosen < 0 ? [] : [`-DQWEN3_CUDA_ARCHITECTURES=${process.argv[chosen + 1]}`]
const folder = join(root, 'build-cuda')
run('cmake', ['-S', root, '-B', folder, '-G', 'Ninja', '-DQWEN3_ADDON=OFF', '-DQWEN3_CUDA=ON', ...architectures])
run('cmake', ['--build', folder, '--parallel', '2', '--target', 'qwen3_cuda'])
console.log(join(folder, 'libqwen3_cuda.so'))
