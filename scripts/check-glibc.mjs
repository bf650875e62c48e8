// Proves that the shipped addon runs on old systems: no symbol newer than glibc 2.28, no libstdc++ needed, and nothing exported
// but the two functions that Node looks up. Arguments: .node files; default: all of prebuilds/linux-*.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fail, howToInstall, root } from './setup.mjs'

const NEWEST_GLIBC = [2, 28]
const EXPORTS = ['napi_register_module_v1', 'node_api_module_get_api_version_v1']
/** libgcc_s comes with every system that runs Node; libstdc++ is linked in. */
const LIBRARIES = /^(libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux[\w-]*)\.so\.\d+$/

const files = process.argv.length > 2 ? process.argv.slice(2) : prebuilds()
if (files.length === 0) fail('nothing to check: prebuilds/ holds no linux addon. Run node scripts/prebuild.mjs first.')
const problems = files.flatMap((file) => check(file).map((problem) => `${file}: ${problem}`))
for (const problem of problems) console.error(problem)
process.exitCode = problems.length > 0 ? 1 : 0

function prebuilds() {
  const folder = join(root, 'prebuilds')
  const platforms = existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith('linux-')) : []
  return platforms.flatMap((platform) =>
    readdirSync(join(folder, platform))
      .filter((file) => file.endsWith('.glibc.node'))
      .map((file) => join(folder, platform, file)),
  )
}

function check(file) {
  const symbols = objdump('-T', file)
  const problems = []
  let newest = [0, 0]
  for (const [, version, name] of symbols.matchAll(/\*UND\*.*\(?GLIBC_([\d.]+)\)?\s+(\S+)$/gm)) {
    const numbers = version.split('.').map(Number)
    if (isNewer(numbers, newest)) newest = numbers
    if (isNewer(numbers, NEWEST_GLIBC))
      problems.push(`${name} needs glibc ${version}; add it to native/node/glibc_compat.cc`)
  }
  const exported = [...symbols.matchAll(/^[0-9a-f]+ [gw].{6} (?!\*UND\*)\S+\s+[0-9a-f]+\s+(?:\S+\s+)?(\S+)$/gm)].map(
    (match) => match[1],
  )
  if (exported.toSorted().join() !== EXPORTS.join())
    problems.push(`exports ${exported.join(', ')}; expected ${EXPORTS.join(', ')}`)
  for (const [, library] of objdump('-p', file).matchAll(/NEEDED\s+(\S+)/g))
    if (!LIBRARIES.test(library)) problems.push(`needs ${library}`)
  if (problems.length === 0) console.log(`${file}: needs glibc ${newest.join('.')}`)
  return problems
}

function objdump(option, file) {
  const result = spawnSync('objdump', [option, file], { encoding: 'utf8', maxBuffer: 1 << 28 })
  if (result.error) fail(howToInstall('objdump'))
  if (result.status !== 0) fail(`objdump ${option} ${file}: ${result.stderr}`)
  return result.stdout
}

function isNewer(a, b) {
  return a[0] !== b[0] ? a[0] > b[0] : (a[1] ?? 0) > (b[1] ?? 0)
}
