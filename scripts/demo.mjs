// `npm run demo`: from a fresh clone to an answer. Installs the packages, builds the addon and the TypeScript, then lets the
// small model that ships with the package answer one problem at three thinking budgets, side by side.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { buildNative, buildTypeScript, installPackages, requireBuildTools, root, seconds } from './setup.mjs'

const start = performance.now()
requireBuildTools()
step('packages', () => installPackages({ quiet: true }))
step('native addon (CMake, once; a minute or two)', () => buildNative({ quiet: true }))
step('TypeScript', () => buildTypeScript({ quiet: true }))
console.log()
const { status } = spawnSync(process.execPath, [join(root, 'dist/bin/qwen3.js'), 'demo', ...process.argv.slice(2)], {
  stdio: 'inherit',
})
process.exitCode = status ?? 1

function step(name, work) {
  process.stdout.write(`${name} ... `)
  const begin = performance.now()
  work()
  console.log(`${seconds(begin)}  (${seconds(start)} in all)`)
}
