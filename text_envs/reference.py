"""Reference scores, under the name that users write; see `text_envs.datasets.reference_scores`.

python -m text_envs.reference                    # all ids, about a second each
"""

from text_envs.datasets.reference_scores import main, normalised_score, reference_scores

__all__ = ["normalised_score", "reference_scores"]

if __name__ == "__main__":
    main()
