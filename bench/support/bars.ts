/** A chart of grouped bars as SVG text, for ratios: a line marks 1. Deterministic, as chart.ts. */

export interface Bar {
  series: string
  value: number
  low: number
  high: number
}

export interface BarChart {
  title: string
  subtitle: string
  yLabel: string
  series: { name: string; colour: string }[]
  panels: { title: string; groups: { label: string; bars: Bar[] }[] }[]
}

const panel = { height: 262, top: 88, bottom: 62, left: 52, right: 14, group: 124, gap: 22 }

export function barChart(chart: BarChart): string {
  const groups = Math.max(...chart.panels.map((one) => one.groups.length))
  const width = Math.max(640, panel.left + groups * panel.group + panel.right)
  const height = panel.height * chart.panels.length + panel.top
  const all = chart.panels.flatMap((one) => one.groups.flatMap(({ bars }) => bars.map(({ high }) => high)))
  const most = Math.max(1.5, Math.ceil(2 * Math.max(0, ...all)) / 2)
  const legend = chart.series.map(
    ({ name, colour }, i) =>
      `<rect x="${panel.left + 120 * i}" y="58" width="12" height="12" fill="${colour}"/>` +
      `<text x="${panel.left + 120 * i + 18}" y="68" fill="#333">${escapeText(name)}</text>`,
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(chart.title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${panel.left}" y="26" font-size="16" font-weight="600" fill="#111">${escapeText(chart.title)}</text>`,
    `<text x="${panel.left}" y="45" fill="#555">${escapeText(chart.subtitle)}</text>`,
    ...legend,
    ...chart.panels.map((one, i) => drawPanel(chart, one, panel.top + i * panel.height, width, most)),
    '</svg>',
    '',
  ].join('\n')
}

function drawPanel(chart: BarChart, one: BarChart['panels'][number], top: number, width: number, most: number): string {
  const bottom = top + panel.height - panel.bottom
  const yOf = (value: number) => round(bottom - (value / most) * (bottom - top - 30))
  const out = [`<text x="${panel.left}" y="${top + 6}" font-weight="600" fill="#111">${escapeText(one.title)}</text>`]
  const step = most > 4 ? 1 : 0.5
  for (let value = 0; value <= most; value += step) {
    const y = yOf(value)
    const stroke = value === 1 ? '#777' : '#e4e4e4'
    out.push(`<line x1="${panel.left}" x2="${width - panel.right}" y1="${y}" y2="${y}" stroke="${stroke}"/>`)
    out.push(`<text x="${panel.left - 8}" y="${y + 4}" text-anchor="end" fill="#555">${value}x</text>`)
  }
  const middle = (top + bottom) / 2
  out.push(
    `<text transform="translate(14 ${middle}) rotate(-90)" text-anchor="middle" fill="#333">${escapeText(chart.yLabel)}</text>`,
  )
  for (const [i, { label, bars }] of one.groups.entries()) {
    const left = panel.left + i * panel.group
    const each = (panel.group - panel.gap) / chart.series.length
    out.push(
      `<text x="${left + panel.group / 2}" y="${bottom + 18}" text-anchor="middle" fill="#333">${escapeText(label)}</text>`,
    )
    for (const bar of bars) {
      const at = chart.series.findIndex(({ name }) => name === bar.series)
      const x = round(left + panel.gap / 2 + at * each)
      const mid = round(x + each / 2 - 1)
      const y = yOf(bar.value)
      out.push(
        `<rect x="${x}" y="${y}" width="${round(each - 2)}" height="${round(bottom - y)}" fill="${chart.series[at]?.colour}"/>`,
        `<line x1="${mid}" x2="${mid}" y1="${yOf(bar.low)}" y2="${yOf(bar.high)}" stroke="#333" stroke-opacity="0.6"/>`,
        `<text x="${mid}" y="${yOf(bar.high) - 4}" text-anchor="middle" font-size="10" fill="#333">${bar.value.toFixed(1)}</text>`,
      )
    }
  }
  return out.join('\n')
}

const round = (value: number) => Math.round(value * 10) / 10
const escapeText = (text: string) => text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`)
