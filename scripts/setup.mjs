// What a fresh clone needs before anything can run: packages, the native build, the emitted TypeScript.
// No dependency beyond Node itself, because it runs before the packages are there.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))

/** Names of the packages that bring a tool, by package manager. */
const packages = {
  cmake: { apt: 'cmake', dnf: 'cmake', brew: 'cmake' },
  'g++': { apt: 'g++', dnf: 'gcc-c++', brew: 'llvm (or: xcode-select --install)' },
  make: { apt: 'make', dnf: 'make', brew: 'make' },
  ninja: { apt: 'ninja-build', dnf: 'ninja-build', brew: 'ninja' },
  'clang-format': { apt: 'clang-format', dnf: 'clang-tools-extra', brew: 'clang-format' },
}

/** Is `tool` on PATH? */
export function has(tool) {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => folder && existsSync(join(folder, tool)))
}

/** The sentence that tells how to get a missing tool. */
export function howToInstall(tool) {
  const names = packages[tool]
  return (
    `${tool} was not found. Install it with one of:\n` +
    `  Debian, Ubuntu:  sudo apt-get install ${names.apt}\n` +
    `  Fedora:          sudo dnf install ${names.dnf}\n` +
    `  macOS:           brew install ${names.brew}`
  )
}

/** Ends the process with a sentence that says what is missing and which package brings it. */
export function requireBuildTools() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 17)) fail(`Node 20.17 or later is needed; this is ${process.version}.`)
  const missing = []
  if (!has('cmake')) missing.push('cmake')
  if (!process.env.CXX && !['c++', 'g++', 'clang++'].some(has)) missing.push('g++')
  if (!['ninja', 'make'].some(has)) missing.push('make')
  if (missing.length > 0) fail(missing.map(howToInstall).join('\n'))
}

/** Prints a sentence to stderr and exits with 1. */
export function fail(message) {
  console.error(message)
  process.exit(1)
}

/**
 * Runs a command in the repository. With `quiet` its output is shown only when it fails.
 * Returns the exit status; ends the process when the command fails, unless `allowFailure`.
 */
export function run(command, args, { quiet = false, allowFailure = false, env = {}, cwd = root } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: quiet ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'inherit', 'inherit'],
    maxBuffer: 1 << 28,
    encoding: 'utf8',
  })
  if (result.error && !allowFailure) fail(`${command}: ${result.error.message}`)
  if (result.status !== 0 && !allowFailure) {
    if (quiet) process.stderr.write((result.stdout ?? '') + (result.stderr ?? ''))
    fail(`failed: ${command} ${args.join(' ')} (${result.signal ?? `exit ${result.status}`})`)
  }
  return result.status ?? 1
}

const bin = (name) => join(root, 'node_modules', '.bin', name)

/** `npm ci --ignore-scripts`, unless node_modules agrees with the lock file already. */
export function installPackages(options = {}) {
  if (packagesAreCurrent()) return false
  run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], options)
  return true
}

function packagesAreCurrent() {
  const marker = join(root, 'node_modules', '.package-lock.json')
  if (!existsSync(marker)) return false
  const installed = JSON.parse(readFileSync(marker, 'utf8')).packages
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  return Object.entries(wanted).every(
    ([path, entry]) => path === '' || entry.optional || installed[path]?.version === entry.version,
  )
}

/** Builds the addon (and, with `tests`, the native tests beside it, so that the engine is compiled once). */
export function buildNative({ tests = false, folder = 'build', defines = {}, debug = false, quiet = false } = {}) {
  const all = tests ? { QWEN3_TESTS: 'ON', ...defines } : defines
  const args = ['compile', '-O', folder, '--parallel', '2', ...(debug ? ['-D'] : [])]
  for (const [name, value] of Object.entries(all)) args.push(`--CD${name}=${value}`)
  // A build folder configured without these definitions would silently keep its old ones.
  const cache = join(root, folder, 'CMakeCache.txt')
  const cached = existsSync(cache) ? readFileSync(cache, 'utf8') : ''
  const configured = Object.entries(all).every(([name, value]) =>
    new RegExp(`^${name}:\\w+=${value}$`, 'm').test(cached),
  )
  if (!configured) {
    const configure = args.map((arg) => (arg === 'compile' ? 'configure' : arg))
    run(bin('cmake-js'), configure, { quiet, env: nodedirFree })
  }
  run(bin('cmake-js'), args, { quiet, env: nodedirFree })
}

/** npm hands `nodedir` down to its scripts; cmake-js would then mix Node's own headers with node-api-headers. */
const nodedirFree = { npm_config_nodedir: '' }

/** Emits dist/: CommonJS, declarations, and the ES module facade. */
export function buildTypeScript(options = {}) {
  run(process.execPath, [join(root, 'scripts/build-ts.mjs')], options)
}

/** Seconds since `start` (from performance.now()), for progress lines. */
export const seconds = (start) => `${((performance.now() - start) / 1000).toFixed(1)} s`

export const isFile = (path) => existsSync(path) && statSync(path).isFile()
