/** `qwen3 build`: compiles the native addon for this machine where no prebuilt one fits. Calls CMake directly. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync } from 'node:fs'
import { cpus } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import type { Command } from 'commander'
import { Qwen3Error } from '../lib/index'
import { exitCode } from './common/exit'
import { examples, positiveInteger } from './common/flags'
import { packageRoot } from './common/package'

export function addBuild(program: Command): void {
  const command = program
    .command('build')
    .summary('compile the native addon for this machine')
    .description(
      'Needed only where no prebuilt addon fits (qwen3 doctor says so). Uses CMake, a C++20 compiler and make or ninja; the ' +
        'headers come with the package, nothing is downloaded.',
    )
    .option('--jobs <n>', 'parallel compilations', positiveInteger, Math.max(1, cpus().length))
    .option('--verbose', "print the tools' output")
    .option('--cuda', 'the CUDA library instead, for the GPUs of this machine; needs nvcc of CUDA 13 and ninja')
    .option('--arch <list>', 'with --cuda: architectures, such as 90a or 80;90a (default: those of the GPUs found)')
    .action(build)
  examples(command, [
    ['npx qwen3 build', 'inside the project that installed qwen3'],
    ['npx qwen3 build --cuda', "afterwards device 'cuda' works, and 'auto' takes the GPU"],
  ])
}

/** Which package brings a tool, on the three commonest systems. */
const toolPackages: Record<string, string> = {
  cmake: 'Debian/Ubuntu: apt-get install cmake; Fedora: dnf install cmake; macOS: brew install cmake',
  'a C++ compiler': 'Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install',
  nvcc: 'the CUDA Toolkit 13 from NVIDIA, its bin folder on PATH',
  ninja: 'Debian/Ubuntu: apt-get install ninja-build; Fedora: dnf install ninja-build',
  'make or ninja': 'Debian/Ubuntu: apt-get install make; Fedora: dnf install make; macOS: xcode-select --install',
}

export function missingTools(cuda = false): string[] {
  const has = (tool: string) =>
    (process.env.PATH ?? '').split(delimiter).some((folder) => folder && existsSync(join(folder, tool)))
  const missing: string[] = cuda ? ['nvcc', 'ninja'].filter((tool) => !has(tool)) : []
  if (!has('cmake')) missing.push('cmake')
  if (!process.env.CXX && !['c++', 'g++', 'clang++'].some(has)) missing.push('a C++ compiler')
  if (!['make', 'ninja'].some(has)) missing.push('make or ninja')
  return missing.map((tool) => `${tool} was not found (${toolPackages[tool]})`)
}

function build(flags: { jobs: number; verbose?: boolean; cuda?: boolean; arch?: string }): void {
  if (flags.arch !== undefined && !flags.cuda) {
    throw new Qwen3Error('INVALID_ARGUMENT', '--arch is for --cuda.', { subject: 'arch' })
  }
  const missing = missingTools(flags.cuda)
  if (missing.length > 0) {
    process.stderr.write(`qwen3: ${missing.join('\nqwen3: ')}\n`)
    process.exitCode = exitCode.failure
    return
  }
  const root = packageRoot()
  try {
    accessSync(root, constants.W_OK)
  } catch {
    throw new Qwen3Error(
      'ADDON_NOT_FOUND',
      `${root} cannot be written; run qwen3 build as the user who installed the package.`,
    )
  }
  if (flags.cuda) buildCuda(root, flags)
  else buildAddon(root, flags)
}

function buildAddon(root: string, flags: { jobs: number; verbose?: boolean }): void {
  const folder = join(root, 'build')
  const headers = [includeFolder('node-api-headers'), includeFolder('node-addon-api')].join(';')
  const configure = ['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', `-DCMAKE_JS_INC=${headers}`]
  cmake([...configure, `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(folder, 'Release')}`], flags.verbose)
  cmake(['--build', folder, '--config', 'Release', '--parallel', String(flags.jobs)], flags.verbose)
  process.stdout.write(`built ${join(folder, 'Release', 'qwen3.node')}\n`)
}

function buildCuda(root: string, flags: { jobs: number; verbose?: boolean; arch?: string }): void {
  const architectures = flags.arch ?? architecturesOfGpus()
  const folder = join(root, 'build-cuda')
  const options = ['-DCMAKE_BUILD_TYPE=Release', '-DQWEN3_ADDON=OFF', '-DQWEN3_CUDA=ON']
  const chosen = `-DQWEN3_CUDA_ARCHITECTURES=${architectures}`
  cmake(['-S', root, '-B', folder, '-G', 'Ninja', ...options, chosen], flags.verbose)
  cmake(['--build', folder, '--parallel', String(flags.jobs), '--target', 'qwen3_cuda'], flags.verbose)
  process.stdout.write(`built ${join(folder, 'libqwen3_cuda.so')} for ${architectures}\n`)
}

/** What nvcc calls the GPUs of this machine; Hopper has kernels of its own. */
function architecturesOfGpus(): string {
  const { stdout, error } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
  })
  const found = (error ? '' : stdout).split('\n').filter((line) => /^\d+\.\d+$/.test(line.trim()))
  if (found.length === 0) {
    throw new Qwen3Error(
      'INVALID_ARGUMENT',
      'no GPU was found by nvidia-smi; name the architectures, such as --arch 90a.',
      {
        subject: 'arch',
      },
    )
  }
  const names = found.map((version) => version.trim().replace('.', '')).map((name) => (name === '90' ? '90a' : name))
  return [...new Set(names)].join(';')
}

function includeFolder(name: string): string {
  const { include_dir } = require(name) as { include_dir: string }
  return resolve(include_dir) // node-addon-api gives it relative to the working directory
}

function cmake(args: string[], verbose = false): void {
  process.stderr.write(`cmake ${args.join(' ')}\n`)
  const result = spawnSync('cmake', args, { stdio: verbose ? 'inherit' : 'pipe', encoding: 'utf8', maxBuffer: 1 << 28 })
  if (result.status === 0) return
  if (!verbose) process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`)
  throw new Qwen3Error(
    'ADDON_NOT_FOUND',
    `the build failed: cmake ended with ${result.status ?? result.signal ?? result.error?.message}.`,
  )
}
