FROM BASE
COPY a.txt /x
COPY a.txt /d/
COPY a.txt b.txt /e/
COPY exe.sh b.txt /bin2/
