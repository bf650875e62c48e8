/** The README's table and the chart of `npm run bench:cpu`, from its results. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ShapeName, shapes } from '../models/synthetic'
import { type Bar, type BarChart, barChart } from '../support/bars'
import { repository } from '../support/environment'
import { replaceSection } from '../support/readme'
import { type Cell, cellName, type Format, formats, type TaskName, tasks } from './cells'
import type { CellResult, Results } from './results'

const colours: Record<Format, string> = {
  bf16: '#1f5fbf',
  int8: '#6a8f3c',
  int4: '#c2541b',
  'int4-offset': '#8a5bb0',
}
const shapeTitles: Record<ShapeName, string> = {
  dense: 'Qwen3-0.6B shape',
  moe: '128 experts, top 8, 8 layers',
}
const formatNames = Object.keys(formats) as Format[]
const taskNames = Object.keys(tasks) as TaskName[]
const shapeNames = Object.keys(shapes) as ShapeName[]

export const markers = {
  begin: '<!-- cpu: written by npm run bench:cpu -->',
  end: '<!-- /cpu -->',
}

/** Writes cpu-peers.svg, and the README's block where `folder` is the repository's. */
export function writeReport(results: Results, folder: string): void {
  writeFileSync(join(folder, 'cpu-peers.svg'), barChart(chart(results)))
  const section = table(results)
  const readme = join(repository, 'README.md')
  if (folder !== join(repository, 'bench/results')) return
  if (!replaceSection(readme, markers, section)) console.log(`README.md has no place for this:\n${section}`)
}

function found(results: Results, cell: Cell): CellResult | undefined {
  return results.cells[cellName(cell)]
}

/** Tasks whose ratio is one of speed. */
const speedTasks = taskNames.filter((task) => tasks[task].kind !== 'load')

export function chart(results: Results): BarChart {
  const measured = speedTasks.filter((task) => Object.keys(results.cells).some((name) => name.endsWith(`/${task}`)))
  return {
    title: 'Tokens per second against llama.cpp through Node, at equal bits a weight',
    subtitle: `ours / ${results.peer}, ${results.threads} threads, median of alternating runs with their range`,
    yLabel: 'times the peer',
    series: formatNames.map((name) => ({ name, colour: colours[name] })),
    panels: shapeNames.map((shape) => ({
      title: shapeTitles[shape],
      groups: measured.map((task) => ({
        label: tasks[task].title,
        bars: formatNames.flatMap((format): Bar[] => {
          const one = found(results, { shape, format, task })
          return one ? [{ series: format, value: one.ratio.median, low: one.ratio.low, high: one.ratio.high }] : []
        }),
      })),
    })),
  }
}

function speedCell(one: CellResult | undefined): string {
  if (!one) return ''
  const { tokensPerSecond, fraction } = one.ours
  const rate = tokensPerSecond!.median
  return `${rate.toFixed(rate < 100 ? 1 : 0)} (${(100 * fraction!).toFixed(0)}%), **${one.ratio.median.toFixed(2)}x**`
}

function loadCell(one: CellResult | undefined): string {
  if (!one) return ''
  const { readyMs, memory } = one.ours
  const seconds = (readyMs!.median / 1000).toFixed(1)
  const megabytes = (memory.peak / 1e6).toFixed(0)
  return `${seconds} s, ${one.ratio.median.toFixed(2)}x; ${megabytes} MB, ${one.memoryRatio!.toFixed(2)}x`
}

export function table(results: Results): string {
  const lines = [
    markers.begin,
    `Tokens per second of this library, their share of what the machine allows, and **how many times ${results.peer}**, both through`,
    `JavaScript with ${results.threads} threads and the same synthetic weights, at equal bits (${formatNames.map((name) => `${name} : ${formats[name]}`).join(', ')}).`,
    'Medians of one to three alternating pairs of runs (`rounds` in bench/results/cpu-peers.json); the machine is measured around each.',
    '`npm run bench:cpu` makes the table:',
    '',
  ]
  for (const shape of shapeNames) {
    lines.push(
      `| ${shapeTitles[shape]} | ${formatNames.join(' | ')} |`,
      `| --- |${' --- |'.repeat(formatNames.length)}`,
    )
    for (const task of [...speedTasks, 'load' as const]) {
      const cells = formatNames.map((format) => found(results, { shape, format, task }))
      if (cells.every((one) => !one)) continue
      const show = task === 'load' ? loadCell : speedCell
      lines.push(
        `| ${task === 'load' ? 'first token after loading; peak memory' : tasks[task].title} | ${cells.map(show).join(' | ')} |`,
      )
    }
    lines.push('')
  }
  lines.push('![Speed against llama.cpp through Node](bench/results/cpu-peers.svg)', markers.end)
  return lines.join('\n')
}
