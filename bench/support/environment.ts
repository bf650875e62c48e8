/** What a figure needs beside it: date, device, versions, commit. */
import { execFileSync } from 'node:child_process'
import { cpus } from 'node:os'
import { join } from 'node:path'

export const repository = join(__dirname, '..', '..')

export function environment() {
  const processors = cpus()
  return {
    date: new Date().toISOString(),
    // QWEN3_COMMIT: of another tree whose build is measured.
    commit:
      process.env.QWEN3_COMMIT ??
      execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: repository, encoding: 'utf8' }).trim(),
    device: `${processors[0]?.model.trim() ?? 'unknown'}, ${processors.length} hardware threads`,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
  }
}
