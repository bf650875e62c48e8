// `npm run release -- --dry`: everything a release needs, short of publishing: version, changelog, tests of the tarball, sizes.
// Publishing itself is the workflow's business (provenance needs it); this script never publishes. `--tagged`: the tag may exist.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fail, root, run } from './setup.mjs'

if (!process.argv.includes('--dry')) fail('Only a dry run exists here: npm run release -- --dry')

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const changelog = readFileSync(join(root, 'CHANGELOG.md'), 'utf8')
const problems = []
if (!new RegExp(`^## ${version.replaceAll('.', '\\.')}\\b`, 'm').test(changelog))
  problems.push(`CHANGELOG.md has no section "## ${version}"`)
const tags = execFileSync('git', ['tag', '--list', `v${version}`], { cwd: root, encoding: 'utf8' }).trim()
if (tags && !process.argv.includes('--tagged')) problems.push(`the tag ${tags} exists already`)
const dirty = execFileSync('git', ['status', '--porcelain'], { cwd: root, encoding: 'utf8' }).trim()
if (dirty) problems.push(`the working tree has changes:\n${dirty}`)

run(process.execPath, ['scripts/package-test.mjs', '--nodes'])
run(process.execPath, ['scripts/api-report.mjs'])
sizeTable()
console.log(
  problems.length > 0 ? `\nNot ready to release ${version}:\n- ${problems.join('\n- ')}` : `\n${version} is ready.`,
)
process.exitCode = problems.length > 0 ? 1 : 0

/** What the package weighs, by folder. */
function sizeTable() {
  console.log('\nunpacked sizes')
  for (const folder of ['dist', 'models/nano', 'models/nano-moe', 'prebuilds', 'native']) {
    const bytes = files(join(root, folder)).reduce((sum, file) => sum + statSync(file).size, 0)
    console.log(`  ${relative(root, join(root, folder)).padEnd(18)}${(bytes / 1e6).toFixed(2).padStart(8)} MB`)
  }
}

function files(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
}
