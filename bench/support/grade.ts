/** The grading rule of train/README.md, repeated: the same rule graded the training's own evaluations. */

export interface Problem {
  id: string
  lang: string
  kind: string
  steps: number
  question: string
  /** A number, or the word (a name, yes, no) that the answer must end with. */
  answer: string
}

/** `answer`: the text after the thinking. */
export function isRight(answer: string, expected: string): boolean {
  const text = answer.trim()
  if (/^\d+$/.test(expected)) return text.match(/\d+/g)?.at(-1) === expected
  return text.replace(/[.。]+$/, '').endsWith(expected)
}
