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
    .action(build)
  examples(command, [['npx qwen3 build', 'inside the project that installed qwen3']])
}

/** Which package brings a tool, on the three commonest systems. */
const toolPackages: Record<string, string> = {
  cmake: 'Debian/Ubuntu: apt-get install cmake; Fedora: dnf install cmake; macOS: brew install cmake',
  'a C++ compiler': 'Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install',
  'make or ninja': 'Debian/Ubuntu: apt-get install make; Fedora: dnf install make; macOS: xcode-select --install',
}

export function missingTools(): string[] {
  const has = (tool: string) =>
    (process.env.PATH ?? '').split(delimiter).some((folder) => folder && existsSync(join(folder, tool)))
  const missing: string[] = []
  if (!has('cmake')) missing.push('cmake')
  if (!process.env.CXX && !['c++', 'g++', 'clang++'].some(has)) missing.push('a C++ compiler')
  if (!['make', 'ninja'].some(has)) missing.push('make or ninja')
  return missing.map((tool) => `${tool} was not found (${toolPackages[tool]})`)
}

function build(flags: { jobs: number; verbose?: boolean }): void {
  const missing = missingTools()
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
  const folder = join(root, 'build')
  const headers = [includeFolder('node-api-headers'), includeFolder('node-addon-api')].join(';')
  const configure = ['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', `-DCMAKE_JS_INC=${headers}`]
  cmake([...configure, `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(folder, 'Release')}`], flags.verbose)
  cmake(['--build', folder, '--config', 'Release', '--parallel', String(flags.jobs)], flags.verbose)
  process.stdout.write(`built ${join(folder, 'Release', 'qwen3.node')}\n`)
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
