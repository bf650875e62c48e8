// `npm test`: everything a fresh clone needs, then the native tests and the TypeScript tests.
// Arguments are passed on to vitest; QWEN3_LONG=1 (npm run test:long) turns on the long suites.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildNative, buildTypeScript, installPackages, requireBuildTools, root, seconds } from './setup.mjs'

if (process.argv.includes('--long')) process.env.QWEN3_LONG = '1'
const long = process.env.QWEN3_LONG === '1'
const vitestArgs = process.argv.slice(2).filter((argument) => argument !== '--long')
const start = performance.now()
const step = (text) => console.log(`[${seconds(start)}] ${text}`)

requireBuildTools()
step('packages')
installPackages()
step('native build')
buildNative({ tests: true, quiet: true })
step('TypeScript build')
buildTypeScript()

let passed = 0
let failed = 0
if (vitestArgs.length === 0) {
  step('native tests')
  nativeTests()
}
step('TypeScript tests')
typeScriptTests()
if (long) {
  step('the tarball, on every supported Node')
  packageTests()
}
step('done')
// The last line is for whoever counts: the runners' own summaries are further up.
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 || passed === 0 ? 1 : 0

function nativeTests() {
  const timeout = long ? '3600' : '480'
  const result = spawnSync('ctest', ['--test-dir', 'build', '--output-on-failure', '--timeout', timeout, '-j2'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  process.stdout.write(result.stdout ?? '')
  process.stderr.write(result.stderr ?? '')
  const summary = /(\d+) tests failed out of (\d+)/.exec(result.stdout ?? '')
  if (!summary || Number(summary[2]) === 0)
    failed++ // ctest itself failed, or found no test
  else count(Number(summary[2]) - Number(summary[1]), Number(summary[1]))
}

function typeScriptTests() {
  const folder = mkdtempSync(join(tmpdir(), 'qwen3-test-'))
  const report = join(folder, 'report.json')
  const args = ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...vitestArgs]
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  const result = spawnSync(process.execPath, [vitest, ...args], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, QWEN3_TEST_DIST: '1' },
  })
  try {
    const { numPassedTests, numFailedTests, numFailedTestSuites } = JSON.parse(readFileSync(report, 'utf8'))
    // A suite that cannot even be loaded has no failed test of its own.
    count(numPassedTests, Math.max(numFailedTests, numFailedTestSuites > 0 ? 1 : 0, result.status === 0 ? 0 : 1))
  } catch {
    failed++
  }
  rmSync(folder, { recursive: true, force: true })
}

function packageTests() {
  const script = join(root, 'scripts/package-test.mjs')
  const { stdout, stderr, status } = spawnSync(process.execPath, [script, '--nodes', '--compile'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  process.stdout.write(stdout)
  process.stderr.write(stderr)
  const summary = /^(\d+) passed, (\d+) failed$/m.exec(stdout)
  if (summary) count(Number(summary[1]), Number(summary[2]))
  else if (status !== 0) failed++
}

function count(good, bad) {
  passed += good
  failed += bad
}
